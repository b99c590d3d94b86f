"""`vidssl train-rotation`: from meshes to a run that estimates, stopped half-way and gone on with."""

import json
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vidssl.checkpoint import read_config, read_model
from vidssl.datasets.depth_sensor import CLEAN
from vidssl.datasets.mesh_views import MeshRenderer
from vidssl.datasets.rotation_pairs import draw_pairs
from vidssl.datasets.solids import make_solid
from vidssl.errors import VidsslError
from vidssl.rotation import load_estimator
from vidssl.rotation.choice import _fitted
from vidssl.rotation.training import RotationLearner
from vidssl.scripts import train_rotation

SMALL = ["--network.degree", "4", "--network.signals", "4", "--network.widths", "8", "8", "16", "16"]
SMALL += ["--network.hidden", "16", "--energy.widths", "8", "8", "8", "--energy.hidden", "16"]


def arguments(out: Path, *more: str) -> list[str]:
    """Twenty solids: five are of the test split, three of the others are held back for calibration."""
    given = ["default", "--limit", "20", "--out", str(out), "--steps", "2", "--objects", "2", "--views", "2"]
    return [*given, "--calibration", "42", "--device", "cpu", *SMALL, *more]


def test_stopped_resumed_calibrated_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, loss = tmp_path / "run", RotationLearner.loss
    monkeypatch.setattr("vidssl.rotation.choice._fitted", partial(_fitted, steps=20))

    def stopped(self: RotationLearner, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        signal.raise_signal(signal.SIGTERM)  # as from outside, during the first step
        return loss(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RotationLearner, "loss", stopped)
        assert train_rotation.main(arguments(out)) == 143
    told = capsys.readouterr()
    assert "1 steps in" in told.out
    assert "stopped by SIGTERM, saved, not calibrated; go on with the same command and --resume" in told.err
    assert not any(name.startswith("choice.") for name in read_model(out))

    assert train_rotation.main(arguments(out, "--resume")) == 0
    told = capsys.readouterr()
    assert "2 steps in" in told.out
    assert "on 12 objects" in told.out
    assert "calibrated on 42 hard pairs of 3 objects held back" in told.out
    config = read_config(out)
    assert (config["kind"], config["data"]["objects"], config["data"]["held"]) == ("rotation", 12, 3)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2]

    pair = draw_pairs(MeshRenderer([make_solid(0)]), 1, (10, 30), CLEAN, 0)
    estimator = load_estimator(out)
    assert estimator.choice is not None
    found = estimator.estimate(pair.a[0], pair.b[0], pair.K)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-4)
    assert 0 <= found.expected_error <= 180


def test_the_same_run_twice_and_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without calibration, which takes longest: `--precision` 32 and bf16, both repeatable."""
    monkeypatch.setattr(train_rotation, "_calibrate", lambda *_: None)
    runs = {}
    for name, precision in (("a", "bf16"), ("b", "bf16"), ("c", "32")):
        assert train_rotation.main(arguments(tmp_path / name, "--precision", precision)) == 0
        runs[name] = read_model(tmp_path / name)
    assert all(torch.equal(runs["a"][key], runs["b"][key]) for key in runs["a"])
    assert any(not torch.equal(runs["a"][key], runs["c"][key]) for key in runs["a"])
    with pytest.raises(VidsslError, match="holds a run already; pass --resume"):
        train_rotation.main(["nowhere", *arguments(tmp_path / "a")[1:]])  # before the meshes are read


def test_what_could_not_be_calibrated_is_refused_before_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(VidsslError, match="--seed: got -1; at least 0"):
        train_rotation.main([*arguments(tmp_path / "run"), "--seed", "-1"])
    with pytest.raises(VidsslError, match="--calibration: got 12; at least 40"):
        train_rotation.main([*arguments(tmp_path / "run"), "--calibration", "12"])
    with pytest.raises(VidsslError, match="of 3 meshes 2 are left to learn from and 0 to calibrate on"):
        train_rotation.main([*arguments(tmp_path / "run"), "--limit", "3"])
    with pytest.raises(VidsslError, match="give one of steps, epochs or minutes"):
        train_rotation.main([*arguments(tmp_path / "run"), "--minutes", "3"])
    assert "mixed precision" not in capfd.readouterr().err.lower(), "nothing of the engine's before the mistake"
    assert not (tmp_path / "run").exists()
