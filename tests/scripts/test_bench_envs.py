"""The table of speeds."""

import pytest

from vidssl.errors import VidsslError
from vidssl.scripts.bench_envs import main

QUICK = ["--size", "16", "--processes", "1", "--rounds", "1", "--seconds", "0.01"]


def test_table_and_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--envs", "Pendulum-v1", "vidssl/Nothing-v0", *QUICK])
    said = capsys.readouterr().out
    assert "left out: vidssl/Nothing-v0: unknown environment" in said
    assert "1 process(es)" in said
    row = next(line for line in said.splitlines() if line.startswith("Pendulum-v1"))
    assert float(row.split()[1]) > 0
    assert float(row.split()[-1]) > 0


def test_nothing_to_measure() -> None:
    with pytest.raises(VidsslError, match="at least one environment"):
        main(["--envs", "vidssl/Nothing-v0", *QUICK])
