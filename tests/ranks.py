"""Run a function on W gloo processes and collect what each returns."""

import io
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch"])  # imported once; each rank then starts in milliseconds


def run_on_ranks(function: Callable[..., Any], size: int, *args: Any) -> list[Any]:
    """`function(*args)` on ranks 0 … size−1 with torch.distributed initialised; what each returned, in rank order.

    Args:
        function: a function of an importable module. Returns what `torch.load(weights_only=True)` reads: tensors,
            numbers, strings, and lists, tuples and dicts of them.
        args: picklable arguments; no tensors (make them in the function, from a seed).
    """
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(size, mp_context=_CONTEXT) as pool:
        jobs = [pool.submit(_rank, function, rank, size, f"file://{folder}/meet", args) for rank in range(size)]
        return [torch.load(io.BytesIO(job.result()), weights_only=True) for job in jobs]


def _rank(function: Callable[..., Any], rank: int, size: int, meet: str, args: tuple[Any, ...]) -> bytes:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    try:
        result = io.BytesIO()
        torch.save(function(*args), result)
        return result.getvalue()
    finally:
        dist.destroy_process_group()
