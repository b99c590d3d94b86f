"""Time and memory of the InfoNCE core beside the forms it replaces, forward and backward.

    python -m vidssl.scripts.bench_core                   # the CPU table: N = M = 8192, D = 128, float32
    python -m vidssl.scripts.bench_core --rounds 9 --threads 2
    python -m vidssl.scripts.bench_core --device cuda     # float32 at 8192, bfloat16 at 32,768, and whether 1 M fits
    python -m vidssl.scripts.bench_core --device cuda --json bench.json

`materialised` is torch's cross-entropy on the whole table of scores; `chunk loop` is cross-entropy over chunks of
anchors left to autograd, which keeps every chunk; `info_nce` is the core. On CUDA also: the chunk loop recomputed in
the backward (checkpointed), under `torch.compile`; `sweep`, the core without its kernels; `info_nce, same bits`, with
deterministic=True; `nt_xent`, the symmetric form of 2 × N/2 views; and liger_kernel, cut_cross_entropy and inf_cl
where they are installed. Before a form is timed on CUDA its loss and gradients are compared with float64's on 4096
anchors.

Times are medians over rounds in which the forms take turns, ratios medians of the per-round ratios to `materialised`.
Extra memory is the peak above the inputs: of the resident set, in a process for each form (Linux), on the CPU; of
torch's allocator on CUDA. A form that fails is listed with its error.
"""

import importlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vidssl.core import info_nce, nt_xent, triton_tiles
from vidssl.errors import VidsslError

TEMPERATURE = 0.1
CHUNK = 1024
Form = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Config:
    """Options."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where; auto takes CUDA when there is one."""
    anchors: int | None = None
    """N = M; default 8192 (on CUDA also 32,768 in bfloat16, and 1,048,576 for the core alone)."""
    dim: int = 128
    """D."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the features, with --anchors."""
    rounds: int = 5
    """Rounds of timing, after one to warm up."""
    threads: int = 2
    """CPU threads."""
    json: str | None = None
    """A file to write the figures to."""


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


@dataclass
class Row:
    """What was measured of a form; seconds by round, extra MiB, error of the loss and of the gradients if compared."""

    form: str
    seconds: list[float] = field(default_factory=list)
    mebibytes: float = float("nan")
    errors: tuple[float, float] | None = None
    failed: str | None = None


def materialised(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    return F.cross_entropy(query @ key.T / TEMPERATURE, positives)


def chunk_loss(rows: Tensor, key: Tensor, own: Tensor) -> Tensor:
    return F.cross_entropy((rows @ key.T / TEMPERATURE).float(), own, reduction="sum")


def chunk_loop(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    parts = zip(query.split(CHUNK), positives.split(CHUNK), strict=True)
    return torch.stack([chunk_loss(rows, key, own) for rows, own in parts]).sum() / len(query)


def compiled_chunk_loop() -> Form:
    one = torch.compile(chunk_loss)

    def loop(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
        parts = zip(query.split(CHUNK), positives.split(CHUNK), strict=True)
        losses = [checkpoint(one, rows, key, own, use_reentrant=False) for rows, own in parts]
        return torch.stack(losses).sum() / len(query)

    return loop


def core(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    return info_nce(query, key, positives, TEMPERATURE)


def same_bits(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    return info_nce(query, key, positives, TEMPERATURE, deterministic=True)


def swept(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    widest, triton_tiles.WIDEST = triton_tiles.WIDEST, 0  # no features are narrow enough for the kernels
    try:
        return info_nce(query, key, positives, TEMPERATURE)
    finally:
        triton_tiles.WIDEST = widest


def symmetric(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    half = len(query) // 2
    views = torch.cat([query[:half], key[:half]])
    return nt_xent(views, torch.arange(2 * half, device=query.device).roll(half), TEMPERATURE)


def liger() -> Form:
    function = importlib.import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss()
    return lambda query, key, positives: function(key / TEMPERATURE, query, positives)


def cut() -> Form:
    function = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    return lambda query, key, positives: function(query, key / TEMPERATURE, positives)


def inf_cl() -> Form:
    function = importlib.import_module("inf_cl").cal_inf_loss
    scale = torch.tensor(1 / TEMPERATURE, device="cuda")
    return lambda query, key, positives: function(query, key, scale=scale)


FORMS: dict[str, Form] = {"materialised": materialised, "chunk loop": chunk_loop, "info_nce": core}
OTHERS: dict[str, Callable[[], Form]] = {
    "compiled chunks": compiled_chunk_loop,
    "liger_kernel": liger,
    "cut_cross_entropy": cut,
    "inf_cl": inf_cl,
}


def cuda_forms() -> dict[str, Form]:
    """All forms there are on this machine; says which are not installed."""
    forms = {**FORMS, "sweep": swept, "info_nce, same bits": same_bits, "nt_xent": symmetric}
    for name, make in OTHERS.items():
        try:
            forms[name] = make()
        except (ImportError, AttributeError) as error:
            print(f"{name}: left out, {error}")
    return forms


def step(form: Form, features: tuple[Tensor, Tensor, Tensor]) -> float:
    """Seconds of one forward and backward."""
    query, key, _ = features
    query.grad = key.grad = None
    cuda = query.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    form(*features).backward()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def errors(form: Form, problem: Problem) -> tuple[float, float]:
    """Relative errors of loss and gradients against `materialised` (`nt_xent` against itself by hand) in float64."""
    small = Problem(min(problem.anchors, 4096), problem.dim, problem.dtype, problem.device, problem.threads).features()
    exact = tuple(x.detach().double().requires_grad_() if x.is_floating_point() else x for x in small)
    mine, plain = form(*small), (symmetric_table if form is symmetric else materialised)(*exact)
    mine.backward()
    plain.backward()
    got, expected = (torch.stack([x.grad.double() for x in side[:2] if x.grad is not None]) for side in (small, exact))
    return ((mine.double() - plain) / plain).abs().item(), ((got - expected).norm() / expected.norm()).item()


def symmetric_table(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    half = len(query) // 2
    views = torch.cat([query[:half], key[:half]])
    scores = views @ views.T / TEMPERATURE
    scores = scores.masked_fill(torch.eye(2 * half, dtype=torch.bool, device=query.device), -torch.inf)
    return F.cross_entropy(scores, torch.arange(2 * half, device=query.device).roll(half))


def peak_cuda(form: Form, features: tuple[Tensor, Tensor, Tensor]) -> float:
    """Peak MiB above the inputs."""
    features[0].grad = features[1].grad = None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(form, features)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peak_cpu(form: str, problem: Problem) -> float:
    """Peak MiB of resident memory above the inputs; to be run in a process of its own."""
    torch.set_num_threads(problem.threads)
    small = Problem(1024, problem.dim, problem.dtype, "cpu", problem.threads).features()
    step(FORMS[form], small)  # libraries set up their threads and buffers
    features = problem.features()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    before = peak_resident()
    step(FORMS[form], features)
    return peak_resident() - before


def peak_resident() -> float:
    """MiB; not from getrusage, whose peak a child inherits from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def measure_cpu(problem: Problem, rounds: int) -> list[Row]:
    context = multiprocessing.get_context("spawn")
    rows = [Row(form) for form in FORMS]
    for row in rows:
        with context.Pool(1) as pool:
            row.mebibytes = pool.apply(peak_cpu, (row.form, problem))
    torch.set_num_threads(problem.threads)
    features = problem.features()
    for turn in range(rounds + 1):
        for row in rows:
            seconds = step(FORMS[row.form], features)
            if turn:  # the first warms up
                row.seconds.append(seconds)
    return rows


def measure_cuda(problem: Problem, rounds: int, forms: dict[str, Form]) -> list[Row]:
    features = problem.features()
    rows = [Row(form) for form in forms]
    for row in rows:
        try:
            row.errors = errors(forms[row.form], problem)
            step(forms[row.form], features)  # compiles, and tries the tiles
            row.mebibytes = peak_cuda(forms[row.form], features)
        except Exception as error:  # another project's kernel may fail in any way, and the table goes on without it
            row.failed = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:90]
            torch.cuda.empty_cache()
    for _ in range(rounds):
        for row in rows:
            if row.failed is None:
                row.seconds.append(step(forms[row.form], features))
    return rows


def show(problem: Problem, rounds: int, forms: dict[str, Form]) -> list[Row]:
    """Print the table of one problem."""
    cuda = problem.device == "cuda"
    rows = measure_cuda(problem, rounds, forms) if cuda else measure_cpu(problem, rounds)
    base = next((row for row in rows if row.form == "materialised" and row.seconds), None)
    on = torch.cuda.get_device_name() if cuda else f"{problem.threads} CPU threads"
    print(f"\nN = M = {problem.anchors}, D = {problem.dim}, {problem.dtype}, {on}, {rounds} rounds")
    print(
        "form                 median ms   best ms   time ratio   extra MiB   memory ratio   TFLOP/s  loss, gradient off"
    )
    for row in rows:
        print(f"{row.form:<20}{row.failed}" if row.failed else line(row, base, problem))
    print("TFLOP/s counts 8 N² D operations for every form, whatever it does", flush=True)
    return rows


def line(row: Row, base: Row | None, problem: Problem) -> str:
    median = statistics.median(row.seconds)
    speed = 8 * problem.anchors**2 * problem.dim / median / 1e12
    ratio, less = "-", "-"
    if base is not None:
        ratio = f"{statistics.median(mine / its for mine, its in zip(row.seconds, base.seconds, strict=True)):.2f}"
        less = f"1/{base.mebibytes / max(row.mebibytes, 0.1):.1f}"
    off = "" if row.errors is None else f"{row.errors[0]:>11.0e}{row.errors[1]:>8.0e}"
    return (
        f"{row.form:<20}{median * 1e3:>10.1f}{min(row.seconds) * 1e3:>10.1f}{ratio:>13}"
        f"{row.mebibytes:>12.1f}{less:>15}{speed:>10.2f}{off}"
    )


def parse(argv: list[str] | None) -> Config:
    """By tyro; a GPU image may have torch, Triton and numpy alone: then `--name value` pairs of the same names."""
    try:
        import tyro
    except ImportError:
        words = sys.argv[1:] if argv is None else argv
        options: dict[str, Any] = {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}
        for name in {"anchors", "dim", "rounds", "threads"} & set(options):
            options[name] = int(options[name])
        return Config(**options)
    return tyro.cli(Config, args=argv, prog="bench_core", description=__doc__)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    config = parse(argv)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise VidsslError("bench_core: --device cuda, but torch finds none here; use --device cpu")
    forms = cuda_forms() if device == "cuda" else FORMS
    alone: dict[str, Form] = {"info_nce": core, "nt_xent": symmetric}
    plan: list[tuple[int, str, dict[str, Form], int]] = [(config.anchors or 8192, config.dtype, forms, config.rounds)]
    if device == "cuda" and config.anchors is None:
        plan += [(32_768, "bfloat16", forms, max(config.rounds, 20)), (2**20, "bfloat16", alone, 1)]
    tables = []
    for anchors, dtype, shown, rounds in plan:
        problem = Problem(anchors, config.dim, dtype, device, config.threads)
        tables.append({**asdict(problem), "rows": [asdict(row) for row in show(problem, rounds, shown)]})
    if config.json is not None:
        Path(config.json).write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    main()
