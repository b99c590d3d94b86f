"""The extractor that controllers import: round trip through a run folder, streaming, every way to feed it wrongly."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from extractors import random_extractor
from torch import nn

import vidssl
from vidssl.checkpoint import write_config, write_json, write_model
from vidssl.encoders import ENCODERS, build_encoder
from vidssl.encoders.context import CONTEXTS, build_context
from vidssl.features import _in_float32

CLIP_ENCODERS = ("r2plus1d-18", "r3d-18", "vit-video")


def write_run(
    folder: Path, encoder_name: str = "small-motion", context_name: str | None = "gru", size: int = 64
) -> Path:
    torch.manual_seed(0)
    encoder = build_encoder(encoder_name, (size, size))
    parts: dict[str, nn.Module] = {"encoder": encoder}
    if context_name:
        parts["context"] = build_context(context_name, encoder.dim, 32)
    write_model(folder, nn.ModuleDict(parts).state_dict())
    write_config(
        folder,
        {
            "encoder": {"name": encoder_name, "dim": encoder.dim},
            "context": {"name": context_name, "dim": 32} if context_name else None,
            "output": "context" if context_name else "encoder",
            "image_size": [size, size],
            "fps": 15.0,
        },
    )
    return folder


def frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_round_trip(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    enc = vidssl.load_encoder(run)
    assert (enc.dim, enc.image_size, enc.fps, enc.output) == (32, (64, 64), 15.0, "context")
    assert enc(frames(5, 64, 64)).shape == (5, 32)
    assert enc(frames(2, 5, 64, 64)).shape == (2, 5, 32)
    assert enc(frames(5, 64, 64)).dtype == torch.float32
    assert vidssl.load_encoder(run, output="encoder").dim == 256


@pytest.mark.parametrize(
    ("name", "context"),
    [*((name, None) for name in sorted(set(ENCODERS) - set(CLIP_ENCODERS))), *(("small-motion", c) for c in CONTEXTS)],
)
def test_streaming_equals_whole_clip(tmp_path: Path, name: str, context: str | None) -> None:
    enc = vidssl.load_encoder(write_run(tmp_path, name, context))
    clip = frames(6, 64, 64)
    streamed = torch.stack([enc.step(frame) for frame in clip])
    whole = enc(clip)
    scale = whole.abs().max()  # untrained deep ResNets give large numbers
    torch.testing.assert_close(streamed / scale, whole / scale, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(enc.per_frame(clip), whole, rtol=0, atol=0)
    enc.reset()
    torch.testing.assert_close(enc.step(clip[0]), streamed[0])


@pytest.mark.parametrize("name", ["r3d-18", "vit-video"])
def test_clip_encoders_stream_window_by_window(tmp_path: Path, name: str) -> None:
    """At frame t: the mean over T' of the whole-clip call on the window, its first frame repeated to fill it up."""
    enc = vidssl.load_encoder(write_run(tmp_path, name, None, size=32))
    window = enc.window
    assert window == 8
    clips = frames(2, window + 3, 32, 32)
    enc.reset(batch=2)
    streamed = torch.stack([enc.step(clips[:, t]) for t in range(window + 3)], dim=1)
    assert streamed.shape == (2, window + 3, enc.dim)
    scale = streamed.abs().max()
    for t in (2, window + 1):
        seen = clips[:, max(0, t - window + 1) : t + 1]
        clip = np.concatenate([np.repeat(seen[:, :1], window - seen.shape[1], axis=1), seen], axis=1)
        torch.testing.assert_close(streamed[:, t] / scale, enc(clip).mean(1) / scale, rtol=1e-5, atol=1e-5)
    every = enc.per_frame(clips)
    torch.testing.assert_close(every / scale, streamed / scale, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(enc.per_frame(clips[1]) / scale, every[1] / scale, rtol=1e-5, atol=1e-5)


def test_streams_of_a_clip_encoder_reset_apart(tmp_path: Path) -> None:
    enc = vidssl.load_encoder(write_run(tmp_path, "vit-video", None, size=32))
    clips = frames(3, 12, 32, 32)
    enc.reset(batch=3)
    out = []
    for t in range(12):
        if t == 9:
            enc.reset_rows([False, True, False])
        out.append(enc.step(clips[:, t]))
    streamed = torch.stack(out, 1)
    torch.testing.assert_close(streamed[[0, 2]], enc.per_frame(clips[[0, 2]]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(streamed[1, 9:], enc.per_frame(clips[1, 9:]), rtol=1e-5, atol=1e-5)


def test_the_context_of_a_clip_encoder_has_no_stream(tmp_path: Path) -> None:
    enc = vidssl.load_encoder(write_run(tmp_path, "vit-video", "gru", size=32))
    assert enc(frames(6, 32, 32)).shape == (3, 32)
    for call in (lambda: enc.step(frames(32, 32)), lambda: enc.per_frame(frames(6, 32, 32))):
        with pytest.raises(vidssl.VidsslError, match='so its context has no stream; use output="encoder"'):
            call()
    assert vidssl.load_encoder(tmp_path, output="encoder").step(frames(32, 32)).shape == (128,)


@pytest.mark.parametrize("context", [None, *CONTEXTS])
def test_parallel_streams_reset_apart(tmp_path: Path, context: str | None) -> None:
    enc = vidssl.load_encoder(write_run(tmp_path, "small-motion", context))
    clips = frames(3, 6, 64, 64)
    enc.reset(batch=3)
    out = []
    for t in range(6):
        if t == 4:
            enc.reset_rows([False, True, False])
        out.append(enc.step(clips[:, t]))
    streamed = torch.stack(out, 1)
    torch.testing.assert_close(streamed[[0, 2]], enc(clips[[0, 2]]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(streamed[1, 4:], enc(clips[1, 4:]), rtol=1e-5, atol=1e-5)


def test_rows_are_reset_by_a_tensor_too() -> None:
    enc = random_extractor("small-motion", (32, 32))
    found = []
    for rows in ([False, True], torch.tensor([False, True]), np.array([False, True])):
        enc.reset(batch=2)
        enc.step(frames(2, 32, 32))
        enc.reset_rows(rows)
        found.append(enc.step(frames(2, 32, 32)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_gpu_rounds_no_convolution_to_tf32() -> None:
    before = torch.backends.cudnn.allow_tf32
    with _in_float32(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32 == before
    with _in_float32(torch.device("cuda", 1)):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.enabled
    assert torch.backends.cudnn.allow_tf32 == before


def test_other_sizes_are_scaled() -> None:
    """A flat frame stays the same flat frame at every size, so its features do too."""
    enc = random_extractor("small", (64, 64))
    flat = [np.full((1, h, w, 3), 90, np.uint8) for h, w in ((64, 64), (48, 80), (240, 320))]
    first, *rest = (enc(frame) for frame in flat)
    for other in rest:
        torch.testing.assert_close(other, first, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((16, 3, 96, 96), np.float32), r"expected uint8 \[T,H,W,3\].*got float32 \(16, 3, 96, 96\)"),
        (np.zeros((16, 3, 96, 96), np.uint8), r"got uint8 \(16, 3, 96, 96\)"),
        (np.zeros((96, 96, 3), np.uint8), r"got uint8 \(96, 96, 3\)"),
        (np.zeros((4, 96, 96, 4), np.uint8), "raw camera frames"),
        (np.zeros((0, 96, 96, 3), np.uint8), "empty array"),
        ([[1, 2], [3, 4]], "got list"),
        (torch.zeros(2, 64, 64, 3), "got float32"),
    ],
)
def test_wrong_frames(bad: object, message: str) -> None:
    enc = random_extractor("small", (64, 64))
    with pytest.raises(vidssl.VidsslError, match=message):
        enc(bad)  # type: ignore[arg-type]


def test_wrong_number_of_streams() -> None:
    enc = random_extractor("small", (64, 64))
    enc.reset(batch=2)
    with pytest.raises(vidssl.VidsslError, match="2 streams are running, got 3 frames"):
        enc.step(frames(3, 64, 64))
    with pytest.raises(vidssl.VidsslError, match=r"expected bool \[2\]"):
        enc.reset_rows([True])


def test_run_folders_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(vidssl.VidsslError, match=r"no run folder: it has no config\.json"):
        vidssl.load_encoder(tmp_path)
    run = write_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {**config, "version": 99})
    with pytest.raises(vidssl.VidsslError, match="version 99, this vidssl reads version 1"):
        vidssl.load_encoder(run)
    (run / "config.json").write_text("{")
    with pytest.raises(vidssl.VidsslError, match="is not JSON"):
        vidssl.load_encoder(run)
    write_json(run / "config.json", {"version": 1})
    with pytest.raises(vidssl.VidsslError, match="lacks or garbles 'image_size'"):
        vidssl.load_encoder(run)
    write_json(run / "config.json", {"version": 1, "kind": "points"})
    with pytest.raises(vidssl.VidsslError, match=r"of kind 'points'.*load it with vidssl\.encoders\.points"):
        vidssl.load_encoder(run)
    write_json(run / "config.json", {**config, "encoder": {"name": "resnet18", "dim": 512}})
    with pytest.raises(vidssl.VidsslError, match=r"does not fit config\.json"):
        vidssl.load_encoder(run)
    write_json(run / "config.json", config)
    (run / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(vidssl.VidsslError, match="is damaged"):
        vidssl.load_encoder(run)
    (run / "model.safetensors").unlink()
    with pytest.raises(vidssl.VidsslError, match="has not saved a model yet"):
        vidssl.load_encoder(run)


def test_maps_are_what_features_are_pooled_from() -> None:
    extractor = random_extractor("small", (32, 32))
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    maps = extractor.maps(frames)
    assert maps.shape == (3, 256, 2, 2)
    torch.testing.assert_close(maps.mean((-2, -1)), extractor(frames))
    torch.testing.assert_close(extractor.maps(frames[None])[0], maps)
    assert not maps.requires_grad
    extractor.encoder = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(vidssl.VidsslError, match="Identity has no maps"):
        extractor.maps(frames)


def test_a_head_can_be_trained_on_features() -> None:
    enc = random_extractor("small", (64, 64))
    for features in (enc(frames(5, 64, 64)), enc.step(frames(64, 64))):
        head = nn.Linear(enc.dim, 2)
        head(features).sum().backward()
        assert head.weight.grad is not None
        assert not features.requires_grad
    assert all(parameter.grad is None for parameter in enc.encoder.parameters())


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(tmp_path: Path, device: str) -> None:
    run = write_run(tmp_path)
    with pytest.raises(vidssl.VidsslError, match=f"device: torch can't use '{device}'"):
        vidssl.load_encoder(run, device=device)


ALONE = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ImportError(name + " is not here")


sys.meta_path.insert(0, Missing())
import numpy as np
import vidssl

enc = vidssl.load_encoder({run!r})
enc.reset()
print(enc.step(np.zeros((64, 64, 3), np.uint8)).shape)
"""


def test_a_robot_needs_torch_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    modules = {"opencv_python": "cv2", "scikit_learn": "sklearn"}
    ours = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in ours}
    missing = {modules.get(name, name) for name in names} - {"torch", "numpy", "safetensors"}
    assert {"open3d", "mujoco", "av", "cv2"} <= missing
    program = ALONE.format(missing=missing, run=str(write_run(tmp_path / "run")))
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert told.stdout == "torch.Size([32])\n", told.stderr
