"""Encoders that `vidssl export` wrote, as controllers use them: the interface of `FeatureExtractor`.

B streams, T frames, H x W pixels of the camera, D feature dim.
"""

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from vidssl.errors import VidsslError, install_extra
from vidssl.features import FeatureExtractor

METADATA = "vidssl"  # the key of the file's metadata under which ours is, as JSON
FORMAT = 1


class Runner(Protocol):
    """An opened file: `about`, what it says of itself, and a call that moves all streams on by a frame."""

    about: dict[str, Any]

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """frame uint8 `[B,H,W,3]`, fresh bool `[B]` and the state -> feature `[B,D]` and the new state."""


class OnnxRunner:
    """An ONNX graph in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            onnxruntime: Any = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise VidsslError(f"{path} needs onnxruntime ({error}); {install_extra('onnx')}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors only
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of onnxruntime's own kinds
            raise _unreadable(path, error) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.about = _about(path, metadata)
        self._names = ["frame", "fresh", *(part["name"] for part in self.about["state"])]
        self._used = {one.name for one in self._session.get_inputs()}  # the fresh flag of a stateless encoder is not

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        named = zip(self._names, inputs, strict=True)
        outputs = self._session.run(None, {name: value.numpy() for name, value in named if name in self._used})
        return [torch.from_numpy(np.asarray(output)) for output in outputs]


class PackageRunner:
    """A package of torch's ahead-of-time compiler, on the CPU."""

    def __init__(self, path: Path, threads: int) -> None:
        self._threads = threads
        try:
            self._model = torch._inductor.aoti_load_package(str(path))
        except Exception as error:  # a torn archive, a library that does not link
            raise _unreadable(path, error) from error
        self.about = _about(path, self._model.get_metadata())
        here, there = torch.backends.cpu.get_cpu_capability(), self.about["isa"]
        if here != there:
            raise VidsslError(
                f"{path} was compiled for {there} processors, this one has {here}; run `vidssl export` on this machine"
            )

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        # The compiler lays its results out as it likes, and takes its inputs' strides for granted.
        inputs = [value.contiguous() for value in inputs]
        threads = torch.get_num_threads()
        if threads == self._threads:
            return list(self._model(*inputs))
        torch.set_num_threads(self._threads)
        try:
            return list(self._model(*inputs))
        finally:
            torch.set_num_threads(threads)


RUNNERS: dict[str, Callable[[Path, int], Runner]] = {".onnx": OnnxRunner, ".pt2": PackageRunner}


class Sealed:
    """What is inside of an exported file: that it is there can be seen, its weights can't be had."""

    def __init__(self, path: Path, **facts: int) -> None:
        self.__dict__.update(facts)
        self._path = path

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise VidsslError(f"{self._path} holds no weights to train or save; use vidssl.load_encoder on the run folder")


class ExportedExtractor(FeatureExtractor):
    """An exported encoder behind `FeatureExtractor`'s interface: `step`, `reset`, `reset_rows`, `per_frame` and call.

    It takes frames of one size, from a fixed number of streams. Weights are not to be had from it. Copies share the
    opened file; a copy sent to another process opens it again.

    Attributes:
        camera: (H, W) of the frames it takes.
        batch: B, the number of streams.
        path: the file.
        threads: CPU threads it runs on.
        dim, image_size, fps, output, window, config: as in `FeatureExtractor`.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self.path, self.threads = Path(path), threads
        if self.path.suffix not in RUNNERS:
            raise VidsslError(f"{path}: an exported encoder ends in {' or '.join(RUNNERS)}; write one by vidssl export")
        if not self.path.is_file():
            raise VidsslError(f"{path}: there is no such file; write it by `vidssl export RUN --out {path}`")
        if threads < 1:
            raise VidsslError(f"threads: got {threads}; at least 1")
        self._runner = RUNNERS[self.path.suffix](self.path, threads)
        about = self._runner.about
        self.device = torch.device("cpu")
        self.dim, self.fps, self.output, self.window = (about[key] for key in ("dim", "fps", "output", "window"))
        self.image_size = (about["image_size"][0], about["image_size"][1])
        self.camera, self.batch = (about["camera"][0], about["camera"][1]), int(about["batch"])
        self.config = about["config"]
        kept = {part["name"]: part["shape"] for part in about["state"]}
        self.encoder = Sealed(self.path, past=kept["before"][1] if "before" in kept else 0)
        self.context = Sealed(self.path) if self.output == "context" else None
        self._start = [torch.zeros(part["shape"], dtype=getattr(torch, part["dtype"])) for part in about["state"]]
        self.reset()

    def __getstate__(self) -> tuple[Path, int]:
        return self.path, self.threads

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # opens the file in this process

    def __copy__(self) -> "ExportedExtractor":
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """Features of whole clips: uint8 `[T,H,W,3]` -> float32 `[T,D]`, or `[N,T,H,W,3]` -> `[N,T,D]`.

        Raises:
            VidsslError: a clip encoder, whose features of clips are not in the file (`per_frame` is).
        """
        if self.window is not None:
            raise VidsslError(
                f"{self.path} holds the stream of a clip encoder, not its features of clips; use per_frame, or "
                "vidssl.load_encoder on the run folder"
            )
        return self.per_frame(frames)

    def per_frame(self, frames: np.ndarray | Tensor) -> Tensor:
        """Features of every frame, those that `step` gives: uint8 `[T,H,W,3]` -> float32 `[T,D]`, or `[N,T,H,W,3]` ->
        `[N,T,D]`, `batch` clips at a time. The streaming state is not touched.
        """
        clips = self._checked(frames, (4, 5), "[T,H,W,3] or [B,T,H,W,3]")
        single = clips.ndim == 4
        clips = clips[None] if single else clips
        features = torch.cat([self._clips(part) for part in clips.split(self.batch)])
        return features[0] if single else features

    def reset(self, batch: int | None = None) -> None:
        """Forget the frames seen: call at the start of an episode; `batch` as exported, if given."""
        self._check_batch(self.batch if batch is None else batch)
        super().reset(batch)

    def _check_streams(self) -> None:
        """Checked when it was exported."""

    def _clips(self, clips: Tensor) -> Tensor:
        """`[n,T,H,W,3]` with n up to `batch` -> `[n,T,D]`; missing clips are filled up with the last."""
        stream = copy.copy(self)
        stream.reset(self.batch)
        rows = torch.arange(self.batch).clamp_max(len(clips) - 1)
        return torch.stack([stream.step(frame) for frame in clips[rows].unbind(1)], dim=1)[: len(clips)]

    def prepare(self, frames: Tensor) -> Tensor:
        """The frames as they are, as the file prepares them; VidsslError for another size than its camera's."""
        if tuple(frames.shape[-3:-1]) != self.camera:
            (height, width), (h, w) = self.camera, frames.shape[-3:-1]
            raise VidsslError(
                f"frames: {self.path} takes {height}x{width} pixels, got {h}x{w}; export it again with --camera {h} {w}"
            )
        return frames

    def _advance(self, prepared: Tensor) -> Tensor:
        self._check_batch(len(prepared))
        fresh = torch.zeros(self.batch, dtype=torch.bool) if self._fresh is None else self._fresh
        if self._state is None:
            fresh, self._state = torch.ones_like(fresh), self._start
        feature, *self._state = self._runner([prepared, fresh, *self._state])
        self._fresh = None
        return feature

    def _check_batch(self, batch: int) -> None:
        if batch != self.batch:
            raise VidsslError(
                f"{self.path} was exported for {self.batch} streams, got {batch}; export it again with --batch {batch}"
            )


def load_exported(path: str | Path, threads: int = 1) -> ExportedExtractor:
    """An encoder written by `vidssl export`, for a controller: the interface of `FeatureExtractor`.

    >>> enc = vidssl.load_exported("runs/mine/encoder.onnx")
    >>> enc.reset()
    >>> feature = enc.step(frame)   # uint8 [H,W,3] -> float32 [D]

    A `.pt2` package is machine code: open only those that you or people you trust have made.

    Args:
        path: `*.onnx` or `*.pt2`.
        threads: CPU threads to run on.

    Raises:
        VidsslError: no such file, one of another kind or for another processor, onnxruntime missing.
    """
    return ExportedExtractor(path, threads)


def _about(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Our part of a file's metadata."""
    if METADATA not in metadata:
        raise VidsslError(f"{path} was not written by vidssl: it does not say what frames it takes; use vidssl export")
    about: dict[str, Any] = json.loads(metadata[METADATA])
    if about.get("format") != FORMAT:
        raise VidsslError(
            f"{path}: export format {about.get('format')!r}, this vidssl reads {FORMAT}; run `vidssl export` again"
        )
    return about


def _unreadable(path: Path, error: Exception) -> VidsslError:
    reason = str(error).strip().partition("\n")[0]
    return VidsslError(f"{path} can't be opened ({type(error).__name__}: {reason}); run `vidssl export` again")
