"""From a folder of meshes to an encoder of point clouds, and to what a probe of unseen objects says of it."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from vidssl.datasets.view_clouds import CloudLoader
from vidssl.encoders.points import DGCNN, load_point_encoder
from vidssl.errors import VidsslError
from vidssl.scripts import pretrain_points
from vidssl.train import Outcome

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
FACES = [(1, 2, 4), (1, 4, 3), (5, 7, 8), (5, 8, 6), (1, 5, 6), (1, 6, 2), (3, 4, 8), (3, 8, 7), (1, 3, 7), (1, 7, 5),
         (2, 6, 8), (2, 8, 4)]  # fmt: skip
SMALL = ["--views", "2", "--points", "40", "--batch-size", "4", "--device", "cpu", "--dim", "8"]


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve bars and twelve slabs of other proportions, each in the folder of its kind."""
    folder = tmp_path_factory.mktemp("boxes")
    rng = np.random.default_rng(0)
    for kind, low, high in (("bars", (0.9, 0.2, 0.2), (1.0, 0.35, 0.35)), ("slabs", (0.8, 0.8, 0.2), (1.0, 1.0, 0.4))):
        (folder / kind).mkdir()
        for number in range(12):
            lines = ["v {:.4f} {:.4f} {:.4f}".format(*corner) for corner in CORNERS * rng.uniform(low, high)]
            lines += ["f {} {} {}".format(*face) for face in FACES]
            (folder / kind / f"{number}.obj").write_text("\n".join(lines) + "\n")
    return folder


def test_training_leaves_an_encoder_and_its_probe(
    meshes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    given = [str(meshes), "--out", str(out), "--encoder", "dgcnn", "--steps", "3", "--probe", *SMALL]
    assert pretrain_points.main(given) == 0
    assert "unseen objects, a view at a time; chance 0." in capsys.readouterr().out
    encoder = load_point_encoder(out)
    assert isinstance(encoder, DGCNN)
    assert encoder(torch.rand(2, 40, 3)).shape == (2, 8)
    rows = json.loads((out / "probe.json").read_text())["rows"]
    names = ["moments", "D2", "D2 and moments", "dgcnn, untrained", "dgcnn, trained"]
    assert [row["features"] for row in rows] == names
    assert all(0 <= row["low"] <= row["mean"] <= row["high"] <= 1 for row in rows)
    assert rows[0]["balanced"] > 0.75  # a bar and a slab differ in their moments, from most sides
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"term_views", "term_pictures", "feature_rank"} <= set(metrics[0])


def test_a_stopped_training_is_not_probed(
    meshes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidssl.train.fit", lambda *_, **__: Outcome(1, 0.5, "SIGTERM"))
    given = [str(meshes), "--out", str(tmp_path), "--learn", "views", "--steps", "3", "--probe", *SMALL]
    assert pretrain_points.main(given) == 143
    assert "stopped by SIGTERM, saved, not probed; go on with the same command and --resume" in capsys.readouterr().err
    assert not (tmp_path / "probe.json").exists()


def test_the_same_command_gives_the_same_weights(meshes: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        given = [str(meshes), "--out", str(tmp_path / name), "--learn", "views", "--steps", "2", *SMALL]
        assert pretrain_points.main(given) == 0
    one, two = (load_point_encoder(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_stopped_training_goes_on_with_the_same_meshes_only(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--learn", "views", "--steps", "2", *SMALL]
    assert pretrain_points.main([str(meshes), "--out", str(tmp_path / "whole"), *more]) == 0
    given = ["--out", str(tmp_path / "run"), *more]
    batch = CloudLoader.batch

    def stopping(self: CloudLoader, step: int) -> object:
        signal.raise_signal(signal.SIGTERM)  # as from outside, during the first step
        return batch(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(CloudLoader, "batch", stopping)
        assert pretrain_points.main([str(meshes), *given]) == 143
    with pytest.raises(VidsslError, match="holds a run already; pass --resume"):
        pretrain_points.main(["nowhere", *given])  # before the meshes are read
    path = meshes / "bars" / "0.obj"
    before = path.read_text()
    path.write_text(before.replace("v -0", "v -1"))  # as many objects, one of another shape
    with pytest.raises(VidsslError, match=r'started with other settings \(data: was .*"hash"'):
        pretrain_points.main([str(meshes), *given, "--resume"])
    path.write_text(before)
    assert pretrain_points.main([str(meshes), *given, "--resume"]) == 0
    one, two = (load_point_encoder(tmp_path / name).state_dict() for name in ("whole", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_mistakes_are_named(meshes: Path, tmp_path: Path) -> None:
    given = [str(meshes / "bars"), "--out", str(tmp_path / "run"), "--steps", "1", *SMALL]
    with pytest.raises(VidsslError, match=r"--probe: 0\.obj has no kind; give a folder with a subfolder for each kind"):
        pretrain_points.main([*given, "--probe"])
    with pytest.raises(VidsslError, match="--points: got 31; pointnet needs at least 32"):
        pretrain_points.main([*given, "--points", "31"])
    with pytest.raises(VidsslError, match="unknown point encoder 'voxels'"):
        pretrain_points.main([*given, "--encoder", "voxels"])
    with pytest.raises(VidsslError, match="give one of steps, epochs or minutes"):
        pretrain_points.main([*given, "--minutes", "1"])


def test_a_probe_that_could_not_be_is_refused_before_the_training() -> None:
    pretrain_points.check_kinds(["a/1.obj", "a/2.obj", "b/1.obj", "b/2.obj"], ["a/3.obj"])
    with pytest.raises(VidsslError, match=r"got \{'a': 2, 'b': 1\}; add objects of b, c, or leave --probe out"):
        pretrain_points.check_kinds(["a/1.obj", "a/2.obj", "b/1.obj"], ["c/1.obj"])
    with pytest.raises(VidsslError, match=r"got \{'a': 2\}; add objects of another kind"):
        pretrain_points.check_kinds(["a/1.obj", "a/2.obj"], ["a/3.obj"])


def test_kinds_by_name() -> None:
    assert pretrain_points.kinds_of(["solid-12-vessel", "chairs/red/1.obj"]) == ["vessel", "chairs"]
