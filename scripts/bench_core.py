"""Time and memory of the InfoNCE core beside the forms it replaces, forward and backward.

    python -m vidssl.scripts.bench_core                   # the CPU table: N = M = 8192, D = 128, float32
    python -m vidssl.scripts.bench_core --rounds 9 --threads 2
    python -m vidssl.scripts.bench_core --device cuda     # float32 at 8192 and bfloat16 at 32,768

`materialised` is torch's cross-entropy on the whole table of scores; `chunk loop` is cross-entropy over chunks of
anchors left to autograd, which keeps every chunk; `info_nce` is the core. Times are medians over rounds in which the
forms take turns, ratios medians of the per-round ratios to `materialised`. Extra memory is the peak above the inputs:
of the resident set, in a process for each form (Linux), on the CPU; of torch's allocator on CUDA.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from vidssl.core import info_nce
from vidssl.errors import VidsslError

TEMPERATURE = 0.1
CHUNK = 1024


@dataclass
class Config:
    """Options."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where; auto takes CUDA when there is one."""
    anchors: int | None = None
    """N = M; default 8192 (on CUDA also 32,768 in bfloat16)."""
    dim: int = 128
    """D."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the features, with --anchors."""
    rounds: int = 5
    """Rounds of timing, after one to warm up."""
    threads: int = 2
    """CPU threads."""


@dataclass(frozen=True)
class Problem:
    anchors: int
    dim: int
    dtype: str
    device: str
    threads: int

    def features(self) -> tuple[Tensor, Tensor, Tensor]:
        """Unit queries and keys [N, D] with gradients wanted, and the positives [N]."""
        torch.manual_seed(0)
        pair = F.normalize(torch.randn(2, self.anchors, self.dim), dim=-1)
        query, key = (x.to(self.device, getattr(torch, self.dtype)).requires_grad_() for x in pair)
        return query, key, torch.arange(self.anchors, device=self.device)


def materialised(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    return F.cross_entropy(query @ key.T / TEMPERATURE, positives)


def chunk_loop(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    parts = zip(query.split(CHUNK), positives.split(CHUNK), strict=True)
    return sum(
        (F.cross_entropy(rows @ key.T / TEMPERATURE, own, reduction="sum") for rows, own in parts),
        start=query.new_zeros(()),
    ) / len(query)


def core(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    return info_nce(query, key, positives, TEMPERATURE)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "materialised": materialised,
    "chunk loop": chunk_loop,
    "info_nce": core,
}


def step(form: str, features: tuple[Tensor, Tensor, Tensor]) -> float:
    """Seconds of one forward and backward."""
    query, key, _ = features
    query.grad = key.grad = None
    cuda = query.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    FORMS[form](*features).backward()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def times(problem: Problem, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round by form, the forms taking turns."""
    torch.set_num_threads(problem.threads)
    features = problem.features()
    for form in FORMS:
        step(form, features)
    taken: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(rounds):
        for form in FORMS:
            taken[form].append(step(form, features))
    return taken


def peak_cuda(form: str, features: tuple[Tensor, Tensor, Tensor]) -> float:
    """Peak MiB above the inputs."""
    step(form, features)
    features[0].grad = features[1].grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(form, features)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peak_cpu(form: str, problem: Problem) -> float:
    """Peak MiB of resident memory above the inputs; to be run in a process of its own."""
    torch.set_num_threads(problem.threads)
    small = Problem(1024, problem.dim, problem.dtype, "cpu", problem.threads).features()
    step(form, small)  # libraries set up their threads and buffers
    features = problem.features()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    before = peak_resident()
    step(form, features)
    return peak_resident() - before


def peak_resident() -> float:
    """MiB; not from getrusage, whose peak a child inherits from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def memory(problem: Problem) -> dict[str, float]:
    if problem.device == "cuda":
        return {form: peak_cuda(form, problem.features()) for form in FORMS}
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for form in FORMS:
        with context.Pool(1) as pool:
            peaks[form] = pool.apply(peak_cpu, (form, problem))
    return peaks


def show(problem: Problem, rounds: int) -> None:
    """Print the table of one problem."""
    peaks, taken = memory(problem), times(problem, rounds)
    on = torch.cuda.get_device_name() if problem.device == "cuda" else f"{problem.threads} CPU threads"
    print(f"\nN = M = {problem.anchors}, D = {problem.dim}, {problem.dtype}, {on}, {rounds} rounds")
    print("form           median ms   best ms   time ratio   extra MiB   memory ratio   TFLOP/s")
    for form in FORMS:
        ratio = statistics.median(mine / base for mine, base in zip(taken[form], taken["materialised"], strict=True))
        median, less = statistics.median(taken[form]), peaks["materialised"] / peaks[form]
        speed = 8 * problem.anchors**2 * problem.dim / median / 1e12
        print(
            f"{form:<14}{median * 1e3:>10.1f}{min(taken[form]) * 1e3:>10.1f}{ratio:>13.2f}"
            f"{peaks[form]:>12.1f}{f'1/{less:.1f}':>15}{speed:>10.2f}"
        )
    print("TFLOP/s counts 8 N² D operations for every form, whatever it does")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    config = tyro.cli(Config, args=argv, prog="bench_core", description=__doc__)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise VidsslError("bench_core: --device cuda, but torch finds none here; use --device cpu")
    sizes = [(config.anchors or 8192, config.dtype)]
    if device == "cuda" and config.anchors is None:
        sizes.append((32_768, "bfloat16"))
    for anchors, dtype in sizes:
        show(Problem(anchors, config.dim, dtype, device, config.threads), config.rounds)


if __name__ == "__main__":
    main()
