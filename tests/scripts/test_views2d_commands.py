"""From a folder of meshes to a network for pairs of pictures, to an encoder, and to what a probe reads in it."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import vidssl
from vidssl.checkpoint import read_config
from vidssl.datasets.meshes import MeshSet, load_meshes
from vidssl.datasets.view_groups import PairLoader
from vidssl.errors import VidsslError
from vidssl.rotation import views2d_training
from vidssl.rotation.views2d import load_views_estimator
from vidssl.scripts import pretrain_views, rotation_probe, train_views2d

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
FACES = [(1, 2, 4), (1, 4, 3), (5, 7, 8), (5, 8, 6), (1, 5, 6), (1, 6, 2), (3, 4, 8), (3, 8, 7), (1, 3, 7), (1, 7, 5),
         (2, 6, 8), (2, 8, 4)]  # fmt: skip


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty boxes of other proportions."""
    folder = tmp_path_factory.mktemp("boxes")
    for number, sides in enumerate(np.random.default_rng(0).uniform(0.2, 1, (20, 3))):
        lines = ["v {:.4f} {:.4f} {:.4f}".format(*corner) for corner in CORNERS * sides]
        lines += ["f {} {} {}".format(*face) for face in FACES]
        (folder / f"{number}.obj").write_text("\n".join(lines) + "\n")
    (folder / "broken.obj").write_text("nothing\n")
    return folder


def test_training_on_pairs_leaves_a_run_that_estimates(meshes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = train_views2d.train_views(load_meshes(meshes), out, 0.03, groups=16, pairs=6, precision="32")
    assert found == json.loads((out / "evaluation.json").read_text())
    assert 0 < found["median"] <= found["p90"] <= 180
    assert 0 < found["still"] < 30
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    estimate = load_views_estimator(out).estimate(picture, picture)
    np.testing.assert_allclose(estimate.rotation @ estimate.rotation.T, np.eye(3), atol=1e-4)
    with pytest.raises(VidsslError, match="holds a run already; choose another --out"):
        train_views2d.train_views(load_meshes(meshes), out, 0.03)
    with pytest.raises(VidsslError, match="got minutes=0, groups=16000; give minutes above 0"):
        train_views2d.train_views(load_meshes(meshes), tmp_path / "other", 0)
    assert read_config(out)["data"]["objects"] == len(load_meshes(meshes).split("train"))


def test_mistakes_are_told_before_the_training(meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_views2d, "render_groups", lambda *given: pytest.fail("renders"))
    with pytest.raises(VidsslError, match="--pairs: got 0; give at least 1"):
        train_views2d.train_views(load_meshes(meshes), tmp_path / "run", 1, pairs=0)
    with pytest.raises(VidsslError, match="device: got 'tpu'; choose from auto, cpu, cuda"):
        train_views2d.train_views(load_meshes(meshes), tmp_path / "run", 1, device="tpu")
    train = MeshSet(load_meshes(meshes).split("train")[:1])
    with pytest.raises(VidsslError, match="split 'test': none of the 1 objects"):
        train_views2d.train_views(train, tmp_path / "run", 1)
    (tmp_path / "file").touch()
    with pytest.raises(VidsslError, match="file is no folder; choose another --out"):
        train_views2d.train_views(load_meshes(meshes), tmp_path / "file" / "run", 1)


def test_a_stopped_training_is_saved_before_it_is_judged(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = views2d_training.views_loss

    def stopping(*given: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss(*given)  # type: ignore[arg-type]

    def failing(*given: object) -> dict[str, float]:
        raise VidsslError("judging failed")

    monkeypatch.setattr(views2d_training, "views_loss", stopping)
    monkeypatch.setattr(train_views2d, "evaluate_views", failing)
    run = tmp_path / "run"
    given = ["--out", str(run), "--minutes", "10", "--groups", "8", "--pairs", "2", "--precision", "32"]
    with pytest.raises(VidsslError, match="judging failed"):
        train_views2d.main([str(meshes), *given])
    load_views_estimator(run)
    assert read_config(run)["train"]["stopped_by"] == "SIGTERM"
    shown = capsys.readouterr().err
    assert f"stopped by SIGTERM before the 10 minutes were over; saved in {run}" in shown
    assert "left out: broken" in shown


def test_pretraining_on_views_and_probing(meshes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "turning"
    given = ["--out", str(run), "--groups", "12", "--batch-size", "6", "--steps", "2", "--device", "cpu"]
    assert pretrain_views.main([str(meshes), *given, "--options", "dim=12", "hidden=16"]) == 0
    assert "left out: broken" in capsys.readouterr().err
    with pytest.raises(VidsslError, match="holds a run already; pass --resume"):
        pretrain_views.main(["nowhere", *given])  # before the meshes are read
    assert pretrain_views.main([str(meshes), *given, "--options", "dim=12", "hidden=16", "--resume"]) == 0
    extractor = vidssl.load_encoder(run)
    assert extractor(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, extractor.dim)
    table = tmp_path / "table.json"
    given = [str(meshes), str(run), "--groups", "24", "--epochs", "1", "--degrees", "40", "--out", str(table)]
    assert rotation_probe.main(given) == 0
    rows = json.loads(table.read_text())["rows"]
    assert [row["features"] for row in rows] == ["raw pixels", str(run), "control, untrained"]
    assert all(row["degrees"] == 40 and row["median"] > 0 for row in rows)
    shown = capsys.readouterr()
    assert "0-40 degrees, unseen objects" in shown.out
    assert "left out: broken" in shown.err
    with pytest.raises(VidsslError, match="turning stands there twice; name every run once"):
        rotation_probe.main([str(meshes), str(run), f"{run}/"])
    with pytest.raises(VidsslError, match="--groups: got 3; at least 4"):
        rotation_probe.main([str(meshes), str(run), "--groups", "3"])
    for degrees in ([], ["0"], ["30", "-5"], ["200"]):
        with pytest.raises(VidsslError, match=r"--degrees: got .*; give one or more ranges above 0, up to 180"):
            rotation_probe.main([str(meshes), str(run), "--degrees", *degrees])
    with pytest.raises(VidsslError, match="--seed: got -1; at least 0"):
        rotation_probe.main([str(meshes), str(run), "--seed", "-1"])
    with pytest.raises(VidsslError, match="--epochs: got 0; at least 1"):
        rotation_probe.main([str(meshes), str(run), "--epochs", "0"])


def test_a_stopped_pretraining_says_so_and_goes_on(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--out", str(tmp_path / "run"), "--groups", "8", "--batch-size", "4", "--steps", "3", "--device", "cpu"]
    batch = PairLoader.batch

    def stopping(self: PairLoader, step: int) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(PairLoader, "batch", stopping)
        assert pretrain_views.main([str(meshes), *given]) == 143
    assert "stopped by SIGTERM, saved; go on with the same command and --resume" in capsys.readouterr().err
    assert pretrain_views.main([str(meshes), *given, "--resume"]) == 0
    assert ": 3 steps in" in capsys.readouterr().out
