"""Exporting a run's encoder: one file that takes raw camera frames, for runtimes without this library's training side.

    onnx  NAME.onnx  a graph for ONNX Runtime and what else reads ONNX
    aoti  NAME.pt2   machine code for this kind of processor, made by torch's ahead-of-time compiler

`vidssl.load_exported` opens both. Who calls a package without it has to make the state contiguous before giving it
back: the compiler lays its results out as it likes. Each file is run beside the encoder it came from before it is kept.

B streams, H x W pixels of the camera, T frames, D feature dim.
"""

import copy
import importlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidssl.checkpoint import check_writable, replacing
from vidssl.errors import VidsslError, install_extra, unknown_name
from vidssl.exported import FORMAT, METADATA, ExportedExtractor, load_exported
from vidssl.features import FeatureExtractor
from vidssl.streaming import StreamingModule

ALLOWED = 1e-4  # difference of features from the encoder's own, in units of the largest feature
CHECKED = 20  # frames of a stream that are compared, more than a context looks back


@dataclass(frozen=True)
class Parity:
    """How far an exported encoder is from its original over streams of noise and of moving scenes.

    Attributes:
        difference: the largest |exported - original|.
        scale: the largest |original|.
    """

    difference: float
    scale: float

    @property
    def relative(self) -> float:
        """The difference in units of the largest feature."""
        return self.difference / max(self.scale, 1e-30)


def export_encoder(
    extractor: FeatureExtractor,
    path: str | Path,
    format: str,
    camera: tuple[int, int] | None = None,
    batch: int = 1,
) -> Parity:
    """Write the streaming form of `extractor` to `path`, if it gives the extractor's own numbers.

    Args:
        extractor: on the CPU, from `vidssl.load_encoder`.
        path: `*.onnx` or `*.pt2`, as the format wants it.
        format: a key of `FORMATS`.
        camera: (H, W) of the frames that will be fed; None for the encoder's own size. Scaling is part of the file.
        batch: B, streams that run side by side.

    Returns:
        How far the file's features are from the extractor's.

    Raises:
        VidsslError: an unknown format, another suffix, missing packages or compiler, an encoder that torch can't
            export, or features that differ by more than `ALLOWED` in units of the largest: then nothing is written.
    """
    path, camera = Path(path), camera or extractor.image_size
    _check(extractor, path, format, camera, batch)
    streaming = StreamingModule(extractor, camera, batch).eval()
    about = _about(extractor, streaming, format, camera, batch)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / path.name
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporters, about their own insides
                FORMATS[format](_graph(streaming, camera, batch), part, about)
        except VidsslError:
            raise
        except Exception as error:  # exporters raise whatever went wrong inside
            reason = str(error).strip().partition("\n")[0]
            raise VidsslError(
                f"{format}: torch can't export the encoder {about['encoder']!r} ({type(error).__name__}: {reason}); "
                f"try --format {' or '.join(set(FORMATS) - {format})}, or use vidssl.load_encoder in the controller"
            ) from error
        parity = check_parity(extractor, load_exported(part), camera, batch)
        if not parity.relative <= ALLOWED:
            raise VidsslError(
                f"{format}: the exported encoder is off by {parity.difference:.1e} where features reach "
                f"{parity.scale:.2g} (allowed: {ALLOWED:g} of that); nothing was written. Try another --format, or use "
                "vidssl.load_encoder in the controller"
            )
        with replacing(path) as whole:
            shutil.copyfile(part, whole)
    return parity


def check_parity(
    extractor: FeatureExtractor, exported: ExportedExtractor, camera: tuple[int, int], batch: int = 1
) -> Parity:
    """Run copies of both over the same streams: noise, and a scene that moves; near the end half of them start anew."""
    streams = [copy.copy(extractor), copy.copy(exported)]
    features: list[list[Tensor]] = [[], []]
    for frames in (_noise(camera, batch), _moving_scene(camera, batch)):
        for stream, seen in zip(streams, features, strict=True):
            stream.reset(batch)
            for number, frame in enumerate(frames):
                if number == len(frames) - 2:
                    stream.reset_rows(np.arange(batch) % 2 == 0)
                seen.append(stream.step(frame))
    wanted, got = (torch.stack(seen) for seen in features)
    return Parity(float((wanted - got).abs().max()), float(wanted.abs().max()))


def _check(extractor: FeatureExtractor, path: Path, format: str, camera: tuple[int, int], batch: int) -> None:
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if path.suffix != SUFFIX[format]:
        raise VidsslError(f"--out {path}: a file of format {format} ends in {SUFFIX[format]}; rename it")
    if batch < 1 or min(camera) < 1:
        raise VidsslError(f"export: got batch {batch} and camera {camera[0]}x{camera[1]}; each must be at least 1")
    if extractor.device.type != "cpu":
        raise VidsslError(f'export: the encoder is on {extractor.device}; load it with device="cpu"')
    check_writable(path)


def _about(
    extractor: FeatureExtractor, streaming: StreamingModule, format: str, camera: tuple[int, int], batch: int
) -> dict[str, Any]:
    """What the file says of itself: everything that a reader needs to feed it."""
    config = extractor.config
    return {
        "format": FORMAT,
        "kind": format,
        "encoder": config.get("encoder", {}).get("name", type(extractor.encoder).__name__),
        "config": {key: config[key] for key in ("encoder", "context", "method", "image_size") if key in config},
        "output": extractor.output,
        "dim": extractor.dim,
        "image_size": list(extractor.image_size),
        "camera": list(camera),
        "batch": batch,
        "fps": extractor.fps,
        "window": extractor.window,
        "state": [
            {"name": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in streaming.state.items()
        ],
        "torch": str(torch.__version__),
    }


def _graph(streaming: StreamingModule, camera: tuple[int, int], batch: int) -> torch.export.ExportedProgram:
    frame = torch.zeros(batch, *camera, 3, dtype=torch.uint8)
    fresh = torch.ones(batch, dtype=torch.bool)
    return torch.export.export(streaming, (frame, fresh, *streaming.state.values()))


def _write_onnx(graph: torch.export.ExportedProgram, path: Path, about: dict[str, Any]) -> None:
    try:
        for needed in ("onnxruntime", "onnxscript"):
            importlib.import_module(needed)
    except ImportError as error:
        raise VidsslError(f"--format onnx needs {error.name}; {install_extra('onnx')}") from error
    names = [part["name"] for part in about["state"]]
    program = torch.onnx.export(
        graph,
        dynamo=True,
        verbose=False,
        input_names=["frame", "fresh", *names],
        output_names=["feature", *(f"{name}_next" for name in names)],
    )
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(about)
    program.save(path, external_data=False)


def _write_package(graph: torch.export.ExportedProgram, path: Path, about: dict[str, Any]) -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise VidsslError(
            f"--format aoti compiles, and there is no C++ compiler ({error}); install g++ (`apt install g++`), "
            "name another in the variable CXX, or use --format onnx"
        ) from error
    about = about | {"isa": torch.backends.cpu.get_cpu_capability()}
    torch._inductor.aoti_compile_and_package(
        graph,
        package_path=str(path),
        inductor_configs={
            "freezing": True,  # weights are constants: norms fold into convolutions, layouts are chosen now
            "cpp.dynamic_threads": True,  # as many threads as the controller gives it, not as there are here
            "aot_inductor.metadata": {METADATA: json.dumps(about)},
        },
    )


FORMATS: dict[str, Callable[[torch.export.ExportedProgram, Path, dict[str, Any]], None]] = {
    "onnx": _write_onnx,
    "aoti": _write_package,
}
SUFFIX = {"onnx": ".onnx", "aoti": ".pt2"}


def _noise(camera: tuple[int, int], batch: int) -> np.ndarray:
    """uint8 [T,B,H,W,3]: every pixel at random."""
    return np.random.default_rng(0).integers(0, 256, (CHECKED, batch, *camera, 3), dtype=np.uint8)


def _moving_scene(camera: tuple[int, int], batch: int) -> Sequence[np.ndarray]:
    """T frames uint8 [B,H,W,3]: smooth colours that drift past a window, with a camera's grain."""
    (height, width), random = camera, torch.Generator().manual_seed(0)
    scene = torch.rand((batch, 3, 6, 6), generator=random)
    wide = F.interpolate(scene, (height + 2 * CHECKED, width + 2 * CHECKED), mode="bicubic", align_corners=False)
    frames = []
    for t in range(CHECKED):
        seen = wide[:, :, 2 * t : 2 * t + height, t : t + width]
        grain = 0.02 * torch.randn(seen.shape, generator=random)
        frames.append((255 * (seen + grain)).clamp(0, 255).byte().movedim(1, -1).numpy())
    return frames
