"""`vidssl train-world-model` from settings to a planner that loads; its bench runs."""

import json
from pathlib import Path

import pytest

from vidssl.errors import VidsslError
from vidssl.robot.planner import PlanController
from vidssl.scripts import bench_planning, train_world_model

QUICK = [
    "--model.image-size",
    "32",
    "--model.steps",
    "1",
    "--model.scenes",
    "3",
    "--model.per-scene",
    "2",
    "--model.length",
    "3",
    "--model.refine-steps",
    "1",
    "--model.refine-length",
    "3",
    "--model.cached",
    "2",
    "--model.landmarks",
    "8",
    "--model.size.hidden",
    "16",
    "--plan.search.samples",
    "8",
    "--plan.search.elites",
    "2",
]


def test_train_and_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p"
    train_world_model.main(["--out", str(out), *QUICK, "--model.weights.painted", "0", "--plan.cost", "last"])
    planner = PlanController.load(out)
    assert planner.config.cost == "last"
    assert planner.extractor.image_size == (32, 32)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["part"] for row in rows] == ["joint", "refine"]
    with pytest.raises(VidsslError, match="holds a controller already"):
        train_world_model.main(["--out", str(out), *QUICK])
    other = tmp_path / "frozen"
    train_world_model.main(["--out", str(other), *QUICK, "--frozen", str(out / "encoder")])
    bench_planning.main([str(out), "--rounds", "1", "--samples", "8", "--horizon", "2", "--threads", "1"])
    bench_planning.main(["--rounds", "1", "--samples", "40", "--horizon", "2", "--threads", "1"])
    assert capsys.readouterr().out.count("plan, mppi, 1 threads") == 2
