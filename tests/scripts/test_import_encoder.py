"""`vidssl import-encoder`: a network with weights of its own becomes a run folder."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import vidssl
from vidssl.checkpoint import read_config
from vidssl.encoders import FrameEncoder
from vidssl.errors import VidsslError
from vidssl.scripts.import_encoder import main

sys.path.append(str(Path(__file__).parent))


def brightness(size: tuple[int, int]) -> FrameEncoder:
    """The mean of each colour, as a network that others have trained."""
    trunk = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        trunk.weight.copy_(torch.eye(3)[:, :, None, None])
        trunk.bias.zero_()  # type: ignore[union-attr]
    return FrameEncoder(trunk, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 3)


def broken(size: tuple[int, int]) -> FrameEncoder:
    encoder = brightness(size)
    nn.init.constant_(encoder.trunk.weight, float("nan"))  # type: ignore[arg-type]
    return encoder


OURS = "test_import_encoder:brightness"


def test_its_weights_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    main([OURS, "--size", "48", "--out", str(run)])
    assert "48x48 pixels -> 3 features" in capsys.readouterr().out
    enc = vidssl.load_encoder(run)
    assert (enc.image_size, enc.fps, enc.dim) == ((48, 48), None, 3)
    frame = np.zeros((90, 120, 3), np.uint8)
    frame[..., 1] = 255
    np.testing.assert_allclose(enc(frame[None])[0], (np.array([0, 1, 0]) - 0.45) / 0.25, rtol=1e-5)
    assert read_config(run)["clip"] == {"frames": 10, "stride": 2, "batch_size": None}
    with pytest.raises(VidsslError, match="holds a run already"):
        main([OURS, "--size", "48", "--out", str(run)])


def test_what_evaluation_asks_of_a_run(tmp_path: Path) -> None:
    """An imported run has what the probes, the baselines and the export read from config.json."""
    from vidssl.evaluate.baselines import untrained
    from vidssl.export import export_encoder
    from vidssl.robot.arms import Architecture

    main(["test_import_encoder:brightness", "--size", "32", "--out", str(tmp_path / "run")])
    enc = vidssl.load_encoder(tmp_path / "run")
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    for other in (untrained(enc, 0), Architecture.of(enc).untrained(0)):  # not the network as it brings its weights
        assert float((other(frames) - enc(frames)).abs().min(0).values.max()) > 0.05
    assert torch.equal(untrained(enc, 0)(frames), untrained(enc, 0)(frames))
    assert not torch.equal(untrained(enc, 0)(frames), untrained(enc, 1)(frames))
    export_encoder(enc, tmp_path / "encoder.onnx", "onnx")
    exported = vidssl.load_exported(tmp_path / "encoder.onnx", threads=1)
    frame = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    np.testing.assert_allclose(exported.step(frame), enc.step(frame), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["resnet18"], "'resnet18', which has no weights of its own; give timm:NAME or module:callable"),
        ([OURS], "give --size, and no --weights"),
        ([OURS, "--size", "48", "--weights", "some.pth"], "give --size, and no --weights"),
        ([OURS, "--size", "48", "--stride", "0"], "--frames, --stride: got 10 and 0"),
        (["test_import_encoder:broken", "--size", "48"], "features of a black picture are not finite"),
    ],
)
def test_mistakes(tmp_path: Path, given: list[str], message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        main([*given, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
