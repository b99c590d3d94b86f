"""How the Triton kernels are launched: which inputs they take, tile sizes, rules packed for them."""

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

_KINDS = (torch.float32, torch.bfloat16, torch.float16)
# Triton runs kernels in Python, on CPU tensors.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_INSTALLED = importlib.util.find_spec("triton") is not None
WIDEST = 512  # largest D: a program keeps rows of D sums in registers


def takes(features: Tensor) -> bool:
    """Whether the kernels serve these features; the blockwise sweep serves all others, with the same results."""
    on = features.device.type == "cuda" or INTERPRETED
    return _INSTALLED and on and features.dtype in _KINDS and features.shape[1] <= WIDEST


def on_device(features: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: make it the features'."""
    return torch.cuda.device(features.device) if features.is_cuda else nullcontext()


def block_dim(dim: int) -> int:
    """D rounded up to a power of two, at least the 16 of a matrix instruction."""
    return max(16, 1 << (dim - 1).bit_length())


def precision(features: Tensor) -> str:
    """float32 products are float32's own, never TF32; half types have one way only."""
    return "ieee" if features.dtype == torch.float32 else "tf32"


class Tiles(NamedTuple):
    """The size of a kernel's tiles, its warps and its pipeline stages."""

    rows: int
    columns: int
    warps: int
    stages: int

    def options(self) -> dict[str, Any]:
        """The launch options of a kernel with such tiles."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


def tiles(dim: int, itemsize: int) -> list[Tiles]:
    """Tile sizes to try, the one for `fixed` first: what compiles for sm_90 without spills and fits shared memory."""
    wide = block_dim(dim)
    if itemsize == 4:  # no matrix units: tiles so small that the unrolled products stay in registers
        options = {256: [Tiles(32, 32, 8, 2)], 512: [Tiles(16, 16, 8, 2)]}
        return options.get(wide, [Tiles(32, 32, 4, 2), Tiles(64, 32, 8, 2)])
    if wide <= 128:
        return [Tiles(128, 128, 8, 3), Tiles(128, 64, 4, 3), Tiles(128, 64, 8, 3), Tiles(64, 64, 4, 3)]
    if wide == 256:
        return [Tiles(128, 64, 8, 2), Tiles(64, 64, 4, 2), Tiles(128, 32, 8, 3)]
    return [Tiles(64, 64, 8, 2), Tiles(64, 32, 8, 2)]


_fastest: dict[tuple[Any, ...], Tiles] = {}


def launch(kernel: Any, count: int, fixed: bool, *args: Any, **constants: Any) -> None:
    """Run `kernel` over `count` rows with the fastest tiles, timed once a form; `fixed`: with the first tiles.

    The kernel must give the same result when it is run again.
    """
    features = args[0]

    def run(tile: Tiles) -> None:
        grid = (-(-count // tile.rows),)
        kernel[grid](*args, **constants, BLOCK_R=tile.rows, BLOCK_C=tile.columns, **tile.options())

    if INTERPRETED:
        return run(Tiles(32, 16, 1, 1))
    options = tiles(features.shape[1], features.element_size())
    with on_device(features):
        if fixed or len(options) == 1:
            return run(options[0])
        form = (kernel.fn.__name__, min(count.bit_length(), 17), features.device, features.dtype, *constants.values())
        if form not in _fastest and torch.cuda.is_current_stream_capturing():
            return run(options[0])
        if form not in _fastest:
            _fastest[form] = min(options, key=lambda tile: _milliseconds(lambda: run(tile)))
        return run(_fastest[form])


def _milliseconds(run: Any) -> float:
    from triton.runtime.errors import OutOfResources  # type: ignore[import-untyped]

    try:
        run()
    except OutOfResources:
        return float("inf")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(3):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)
