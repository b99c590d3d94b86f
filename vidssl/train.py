"""The one training loop.

    loader ──batch──> method.loss ──backward, clip──> optimiser ──> method.after_step
                                                   every log_every: metrics.jsonl, TensorBoard, progress, doctor
                                                   every checkpoint_every: trainer.pt, model.safetensors

A step is a function of (weights, seed, step): the loader starts at any step, and torch's generator is seeded anew for
every step. So resuming is arithmetic, and a killed and resumed CPU run ends with the same bits as one left alone.
"""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from vidssl.checkpoint import read_config, read_metrics, read_state, replacing, write_config, write_model, write_state
from vidssl.core.monitor import measuring
from vidssl.core.random import mix_ints
from vidssl.device import choose_device
from vidssl.errors import VidsslError
from vidssl.evaluate.doctor import EARLY, Doctor, Setting
from vidssl.progress import TrainingDisplay

PAUSE = 30.0  # seconds between checkpoints, and between probes, at least, where the clock ends the run


class Loader(Protocol):
    """What the loop needs of a data source."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the data."""

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """Batches from `start_step` on, without end; batch s depends on (seed, s) alone."""


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of the three.

    Attributes:
        steps: optimiser steps.
        epochs: passes over the data, `steps_per_epoch` of the loader each.
        minutes: wall-clock of the loop; the learning rate then follows the clock, so such a run is not repeatable.
    """

    steps: int | None = None
    epochs: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in asdict(self).items() if v is not None}
        if len(given) != 1 or next(iter(given.values())) <= 0:
            raise VidsslError(f"training budget: got {given or 'none'}; give one of steps, epochs or minutes, above 0")

    def total_steps(self, batches_per_epoch: int, accumulate: int = 1) -> int | None:
        """Optimiser steps in all, of `accumulate` batches each; None when the clock decides."""
        return math.ceil(self.epochs * batches_per_epoch / accumulate) if self.epochs else self.steps


@dataclass(frozen=True)
class TrainConfig:
    """How a method is optimised: AdamW, linear warm-up, cosine decay to zero, gradients clipped by norm.

    Attributes:
        lr: peak learning rate.
        weight_decay: on matrices and kernels, not on biases and norms.
        warmup: share of the budget spent warming up.
        clip_norm: largest gradient norm.
        accumulate: batches an optimiser step; the negatives of a contrastive loss still come from one batch.
        precision: `"32"` or `"bf16"` (mixed).
        seed: of everything random.
        log_every: steps between lines of metrics.
        checkpoint_every: steps between checkpoints; where the budget is one of minutes, those less than 30 seconds
            after another are left out.
        monitor_every: steps between probes of the encoder (effective rank, k-NN), likewise.
    """

    lr: float = 3e-4
    weight_decay: float = 1e-4
    warmup: float = 0.05
    clip_norm: float = 1.0
    accumulate: int = 1
    precision: Literal["32", "bf16"] = "32"
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 200
    monitor_every: int = 200

    def __post_init__(self) -> None:
        for name in ("accumulate", "log_every", "checkpoint_every", "monitor_every"):
            if getattr(self, name) < 1:
                raise VidsslError(f"training: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise VidsslError(f"training: {name} must be a finite number above 0, got {getattr(self, name)}")
        if self.weight_decay < 0 or not 0 <= self.warmup < 1:
            raise VidsslError(
                "training: weight_decay must be at least 0 and warmup in [0, 1), "
                f"got {self.weight_decay} and {self.warmup}"
            )


@dataclass
class Outcome:
    """How a training ended.

    Attributes:
        step: optimiser steps done in all.
        seconds: spent in the loop, resumed parts included.
        stopped_by: the name of the signal that stopped it early, or "doctor"; None when the budget was spent.
    """

    step: int
    seconds: float
    stopped_by: str | None = None

    @property
    def exit_status(self) -> int:
        """Of a command that ends so: 143 after SIGTERM, 130 after another signal, 3 after the doctor, otherwise 0."""
        return 0 if self.stopped_by is None else {"SIGTERM": 143, "doctor": 3}.get(self.stopped_by, 130)


def make_fabric(device: str = "auto", devices: int = 1, precision: str = "32") -> Any:
    """The Fabric engine: one process, `devices` processes here, or those that torchrun or SLURM started.

    Args:
        device: `"auto"`, `"cpu"` or `"cuda"`.
        devices: processes; more than one trains with DDP. Under torchrun or SLURM their number counts instead.
        precision: `"32"` or `"bf16"`.

    Raises:
        VidsslError: no such device, or not so many of them.
    """
    from lightning_fabric import Fabric

    accelerator = choose_device(device)
    devices, nodes = _processes(devices)
    if devices < 1 or (accelerator == "cuda" and devices > torch.cuda.device_count()):
        most = f"1 to {torch.cuda.device_count()}, the GPUs here" if accelerator == "cuda" else "1 or more"
        raise VidsslError(f"devices: got {devices}; on {accelerator} choose {most}")
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric_precision: Any = {"32": "32-true", "bf16": "bf16-mixed"}[precision]
    fabric = Fabric(
        accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, precision=fabric_precision
    )
    fabric.launch()
    return fabric


def _processes(devices: int) -> tuple[int, int]:
    """Processes a node, and nodes: as torchrun or SLURM started them, otherwise `devices` on this one."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    if SLURMEnvironment.detect() and (tasks := int(os.environ["SLURM_NTASKS"])) > 1:
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return tasks // nodes, nodes
    return devices, 1


def fit(
    fabric: Any,
    method: Any,
    loader: Loader,
    run: Path,
    budget: Budget,
    config: TrainConfig,
    *,
    run_config: dict[str, Any],
    resume: bool = False,
    monitor: Callable[[nn.Module], dict[str, float]] | None = None,
    doctor: Literal["warn", "stop", "off"] = "warn",
) -> Outcome:
    """Train `method` on the batches of `loader` and leave a run folder.

    Args:
        fabric: from `make_fabric`.
        method: see `vidssl.methods`.
        loader: this rank's batches.
        run: the run folder; new, or an earlier run's with `resume`.
        budget: when to stop.
        config: how to optimise.
        run_config: what `load_encoder` needs, and what a resumed run must share with its first part.
        resume: go on from the last checkpoint of `run`.
        monitor: called with the method every `monitor_every` steps; its numbers are logged.
        doctor: what a collapse does: a warning and a line in `doctor.jsonl`, the end of the run too where it lasts
            beyond `EARLY` of the budget, or nothing.
    Raises:
        VidsslError: a run folder in use, a resumed run that differs from its first part, a loss or gradient that is not
            finite, a disk that is full. Before the first checkpoint it leaves the folder free for another start.
    """
    run_config = {**run_config, "train": asdict(config), "budget": asdict(budget)}
    fused = True if fabric.device.type == "cuda" else None
    optimizer = torch.optim.AdamW(_decay_groups(method, config.weight_decay), lr=config.lr, fused=fused)
    step, seconds = _begin(fabric, method, optimizer, run, run_config, resume)
    model, optimizer = fabric.setup(_Loss(method), optimizer)
    total = budget.total_steps(loader.steps_per_epoch, config.accumulate)
    batches = loader.batches(step * config.accumulate)
    waited, first_step, clipped = 0.0, step, 0
    pause = PAUSE if total is None else 0.0
    saves, probes = _Every(config.checkpoint_every, pause), _Every(config.monitor_every, pause)

    def save(seconds: float) -> None:
        if fabric.is_global_zero:
            _save(method, optimizer, run, step, seconds)

    with ExitStack() as stack:
        if fabric.is_global_zero:
            stack.enter_context(_freed_when_refused(run))
        stack.callback(batches.close)  # type: ignore[attr-defined]
        stop = stack.enter_context(stop_signals())
        log = stack.enter_context(_MetricsLog(run, step, enabled=fabric.is_global_zero))
        display = stack.enter_context(TrainingDisplay(total, budget.minutes, step, enabled=fabric.is_global_zero))
        ward = _Ward(run, run_config) if doctor != "off" and fabric.is_global_zero else None
        started = time.perf_counter() - seconds  # all that comes before is no training
        while True:
            spent, stopped_by = _agreed(fabric, time.perf_counter() - started, stop.name)
            fraction = step / total if total is not None else spent / (60 * (budget.minutes or 1))
            if fraction >= 1 or stopped_by:
                break
            lr = config.lr * schedule(fraction, config.warmup)
            for group in optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed(mix_ints(config.seed, step, fabric.global_rank))
            # The first is logged too: what the untrained network was like.
            logged = (step + 1) % config.log_every == 0 or step + 1 in (1, total)
            metrics: dict[str, Tensor] = {}
            losses: list[Tensor] = []
            names: list[list[str]] = []
            for part in range(config.accumulate):
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                last = part == config.accumulate - 1
                with fabric.no_backward_sync(model, enabled=not last), measuring(logged and last):
                    number = torch.tensor(step * config.accumulate + part)
                    tensors = fabric.to_device(_tensors(batch) | {"step": number})
                    loss, metrics = model(_Batch(tensors | {"progress": torch.tensor(fraction)}))
                    fabric.backward(loss / config.accumulate)
                losses.append(fabric.all_reduce(loss.detach(), reduce_op="mean"))  # of all ranks: all stop at a NaN
                names.append(batch.get("names", []))
            norm = fabric.clip_gradients(model, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
            *values, norm = torch.stack([x.double() for x in (*losses, norm)]).tolist()  # a GPU waits once
            for part_loss, files in zip(values, names, strict=True):
                if not math.isfinite(part_loss):
                    raise VidsslError(
                        f"loss is {part_loss} at step {step}; batch: {', '.join(files)}. "
                        f"Lower --lr, or use --precision 32; {_kept(run)}"
                    )
            value = sum(values) / len(values)
            if not math.isfinite(norm):  # one step with it, and every weight would be NaN
                raise VidsslError(
                    f"the gradient is not finite at step {step}, the loss is {value}. "
                    f"Lower --lr, or use --precision 32; {_kept(run)}"
                )
            clipped += norm > config.clip_norm
            optimizer.step()
            optimizer.zero_grad()
            if hasattr(method, "after_step"):
                method.after_step()
            step += 1

            spent = time.perf_counter() - started
            rate = (step - first_step) / max(spent - seconds, 1e-9)
            wait = waited / max(spent - seconds, 1e-9)
            display.update(step, spent, value, rate, wait)
            if logged:
                numbers = {name: float(metric) for name, metric in metrics.items()}
                timing = {"seconds": spent, "steps_per_second": rate, "data_wait": wait}
                gradient = {"gradient_norm": norm, "clipped_steps": clipped / (step - first_step)}
                line = {"loss": value, "lr": lr, **gradient, **numbers, **timing}
                log.write(step, line)
                if ward is not None and ward.collapsed(step, line) and doctor == "stop" and fraction >= EARLY:
                    stop.name = stop.name or "doctor"
            if monitor is not None and fabric.is_global_zero and (probes.due(step) or step == total):
                log.write(step, monitor(method))
            if saves.due(step):
                save(time.perf_counter() - started)
        if total is None and not stopped_by and monitor is not None and fabric.is_global_zero and step > first_step:
            log.write(step, monitor(method))  # the clock says only now that the last step was the last
        save(spent)
    return Outcome(step, spent, stopped_by)


class _Every:
    """Every so many steps, but not within `pause` seconds of the last time."""

    def __init__(self, steps: int, pause: float) -> None:
        self.steps, self.pause, self.last = steps, pause, -math.inf

    def due(self, step: int) -> bool:
        now = time.perf_counter()
        if step % self.steps or now - self.last < self.pause:
            return False
        self.last = now
        return True


class _Loss(nn.Module):
    """A method's loss as a forward, which is what DDP and mixed precision wrap."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: "_Batch") -> tuple[Tensor, dict[str, Tensor]]:
        return self.method.loss(batch.tensors)


class _Batch:
    """A batch that Fabric hands on as it is: of a dict it would round what is float, such as depth, to bf16."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors


def schedule(fraction: float, warmup: float) -> float:
    """Learning rate over its peak: linear from 0 to 1 over `warmup`, then a half cosine to 0. fraction in [0, 1]."""
    if fraction < warmup:
        return max(fraction / warmup, 1e-2)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (fraction - warmup) / (1 - warmup))))


def _kept(run: Path) -> str:
    kept = (run / "trainer.pt").exists()
    return "the last checkpoint is kept" if kept else "there was no checkpoint yet, start again"


def exported(method: Any) -> dict[str, Tensor]:
    """The tensors that a run folder publishes: of the encoder and, where there are such, the context and the energy."""
    parts = {"encoder": method.encoder, "context": method.context, "energy": getattr(method, "energy", None)}
    return nn.ModuleDict({name: part for name, part in parts.items() if part is not None}).state_dict()


def _tensors(batch: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if isinstance(value, Tensor)}


def _agreed(fabric: Any, spent: float, signal_name: str | None) -> tuple[float, str | None]:
    """Seconds spent and the signal to stop for, alike on all ranks: their clocks differ, and a signal may reach one."""
    if fabric.world_size == 1:
        return spent, signal_name
    names = [None, *(number.name for number in signal.Signals), "doctor"]
    ours = torch.tensor([spent, names.index(signal_name)], dtype=torch.float64, device=fabric.device)
    spent, number = fabric.all_reduce(ours, reduce_op="max").tolist()
    return spent, names[int(number)]


def _decay_groups(method: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in method.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _begin(
    fabric: Any,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: Path,
    run_config: dict[str, Any],
    resume: bool,
) -> tuple[int, float]:
    """Make the run folder, or load the last checkpoint of an earlier part: steps and seconds already done."""
    if not resume:
        if (run / "config.json").exists():
            raise VidsslError(f"{run} holds a run already; pass --resume to go on with it, or choose another --out")
        fabric.barrier()  # every rank has looked before one writes
        if fabric.is_global_zero:
            write_config(run, run_config)
        return 0, 0.0
    before = read_config(run)
    ours = json.loads(json.dumps(run_config))
    differing = sorted(key for key in ours if before.get(key) != ours[key])
    if differing:
        was = "; ".join(f"{key}: was {_brief(before.get(key))}, now {_brief(ours[key])}" for key in differing)
        raise VidsslError(f"--resume: {run} was started with other settings ({was}); give the same ones")
    state = read_state(run)
    if state is None:
        return 0, 0.0  # stopped before the first checkpoint: the first part is repeated, with the same numbers
    method.load_state_dict(state["method"])
    fabric.to_device(method)  # an optimiser's state is loaded to where its parameters are
    for saved, ours_now in zip(state["optimizer"]["param_groups"], optimizer.param_groups, strict=True):
        saved["fused"] = ours_now["fused"]  # of the device, not of the run
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:200] + "…"


def _save(method: nn.Module, optimizer: torch.optim.Optimizer, run: Path, step: int, seconds: float) -> None:
    write_model(run, exported(method))
    state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    write_state(run, state)


@contextmanager
def _freed_when_refused(run: Path) -> Iterator[None]:
    """Frees a run folder where a mistake of the user ends training before the first checkpoint: nothing is lost."""
    try:
        yield
    except VidsslError:
        if not (run / "trainer.pt").exists():
            (run / "config.json").unlink(missing_ok=True)
        raise


class Stop:
    """Whether to end early: `name` of the signal that asked for it (or "doctor"), None while none did."""

    name: str | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGTERM and Ctrl-C ask the loop to save and end after the step in hand; a second Ctrl-C ends it at once."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.name = signal.Signals(number).name

    if threading.current_thread() is not threading.main_thread():  # handlers can be set in the main thread only
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _MetricsLog:
    """`metrics.jsonl` and TensorBoard. A resumed run first drops the lines after its checkpoint."""

    def __init__(self, run: Path, step: int, enabled: bool) -> None:
        self.run, self.step, self.enabled = run, step, enabled

    def __enter__(self) -> "_MetricsLog":
        if self.enabled:
            from torch.utils.tensorboard import SummaryWriter

            path = self.run / "metrics.jsonl"
            kept = [line for line in read_metrics(self.run) if line["step"] <= self.step]
            with replacing(path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            self.file = path.open("a")
            self.board = SummaryWriter(str(self.run / "tensorboard"), purge_step=self.step + 1)
        return self

    def write(self, step: int, metrics: dict[str, float]) -> None:
        if self.enabled and metrics:
            self.file.write(json.dumps({"step": step, **metrics}) + "\n")
            self.file.flush()
            for name, value in metrics.items():
                self.board.add_scalar(name, value, step)

    def __exit__(self, *exception: object) -> None:
        if self.enabled:
            self.file.close()
            self.board.close()


class _Ward:
    """The doctor at a running training. A resumed run's earlier lines are read again, and told findings kept told."""

    def __init__(self, run: Path, run_config: dict[str, Any]) -> None:
        self.doctor, self.path = Doctor(Setting.of(run_config)), run / "doctor.jsonl"
        findings = [finding for line in read_metrics(run) for finding in self.doctor.read(line)]
        if findings or self.path.exists():
            with replacing(self.path) as temporary:
                temporary.write_text("".join(json.dumps(finding.as_json()) + "\n" for finding in findings))

    def collapsed(self, step: int, metrics: dict[str, float]) -> bool:
        """Reads a line of metrics; a finding is written, and told on stderr. Whether the run stands collapsed now."""
        findings = self.doctor.read({"step": step, **metrics})
        for finding in findings:
            with self.path.open("a") as file:
                file.write(json.dumps(finding.as_json()) + "\n")
            print(f"doctor: {finding.text()}", file=sys.stderr, flush=True)
        return self.doctor.collapsed
