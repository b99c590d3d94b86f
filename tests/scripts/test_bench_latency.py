"""The latency table: its ratios by hand, and one small measurement."""

import json
from pathlib import Path

import numpy as np
import pytest

from vidssl.errors import VidsslError
from vidssl.scripts.bench_latency import Row, main, speedup
from vidssl.scripts.robot_report import read


def test_ratios_are_of_medians() -> None:
    eager = Row("small", "eager", [[0.002, 0.002, 0.009], [0.004, 0.004, 0.004]])  # medians 2 and 4, of all 4 ms
    fast = Row("small", "onnx", [[0.001, 0.001, 0.001], [0.001, 0.001, 0.001]])
    assert speedup(fast, eager) == pytest.approx((4.0, 2.0, 4.0))
    assert eager.percentile(50) == pytest.approx(4.0)


def test_table_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda function: function)  # no compiling: how it is stepped and compared
    options = ["--forms", "eager", "compiled", "--frames", "4", "--rounds", "2", "--size", "32", "--threads", "1"]
    main(["--encoders", "small-motion+gru", *options, "--out", str(tmp_path)])
    title, _, eager, compiled = capsys.readouterr().out.strip().splitlines()
    assert title == "32x32 frames, 2 rounds of 4, 1 CPU threads"
    assert eager.split()[:2] == ["small-motion+gru", "eager"]
    assert float(compiled.split()[-1]) < 1e-4
    assert (tmp_path / "latency.png").read_bytes()[:4] == b"\x89PNG"
    found = json.loads((tmp_path / "latency.json").read_text())
    assert [(row["encoder"], row["form"]) for row in found["rows"]] == [
        ("small-motion+gru", "eager"),
        ("small-motion+gru", "compiled"),
    ]
    assert found["rows"][0]["times_as_fast"] == 1
    assert found["rows"][1]["p99_ms"] >= found["rows"][1]["p50_ms"] > 0
    assert found["settings"]["threads"] == 1
    assert found["versions"]["numpy"] == np.__version__
    assert read([tmp_path]).latencies[tmp_path.name] == found  # what robot-report makes of it


def test_mistakes() -> None:
    with pytest.raises(VidsslError, match="unknown form 'tensorrt'; the forms here are: aoti, compiled, eager, onnx"):
        main(["--forms", "eager", "tensorrt"])
    with pytest.raises(VidsslError, match="at least one form, round and frame"):
        main(["--rounds", "0"])
