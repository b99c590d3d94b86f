"""The loop: exact resume after kill -9, SIGTERM, budgets, what a run folder holds, what is refused."""

import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vidssl
from vidssl.checkpoint import read_model, write_state
from vidssl.core.monitor import measured
from vidssl.core.random import mix_ints
from vidssl.encoders import build_encoder
from vidssl.train import Budget, Outcome, TrainConfig, _Every, fit, make_fabric, schedule

RUN_CONFIG = {
    "encoder": {"name": "small", "dim": 256},
    "context": None,
    "output": "encoder",
    "image_size": [32, 32],
    "fps": None,
}


class Distil(nn.Module):
    """A stand-in method: predict the mean colour, with dropout so that the generator's state matters."""

    output, context = "encoder", None

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder("small", (32, 32))
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(256, 3))
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        clips = batch["clips"].float() / 255
        error = (self.head(self.encoder(clips)) - clips.mean((-1, -2))).square().mean()
        return error, {"error": error.detach()}

    forward = loss

    def after_step(self) -> None:
        self.steps_seen += 1


class Noise:
    """Batches as a function of (seed, step)."""

    steps_per_epoch = 4

    def __init__(self, pause: float = 0.0, poison: int | None = None) -> None:
        self.pause, self.poison = pause, poison

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        step = start_step
        while True:
            time.sleep(self.pause)
            generator = torch.Generator().manual_seed(mix_ints(7, step))
            clips = torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
            scale = float("nan") if step == self.poison else 1.0
            yield {"clips": clips if step != self.poison else clips.float() * scale, "names": [f"clip{step}.mp4"]}
            step += 1


def train(run: Path, budget: Budget, *, resume: bool = False, loader: Noise | None = None, **changes: Any) -> Outcome:
    torch.manual_seed(0)
    config = TrainConfig(**{"checkpoint_every": 5, "log_every": 1, **changes})
    fabric = make_fabric("cpu")
    return fit(fabric, Distil(), loader or Noise(), run, budget, config, run_config=RUN_CONFIG, resume=resume)


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_loads(tmp_path: Path) -> None:
    outcome = train(tmp_path / "run", Budget(epochs=3))
    assert (outcome.step, outcome.stopped_by) == (12, None)
    assert vidssl.load_encoder(tmp_path / "run").dim == 256
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 13))
    assert {"loss", "lr", "gradient_norm", "error", "steps_per_second", "data_wait"} <= set(
        metrics(tmp_path / "run")[0]
    )
    assert not list((tmp_path / "run").glob(".*"))


def test_the_share_of_clipped_steps_is_logged(tmp_path: Path) -> None:
    for clip_norm, share in ((1e-9, 1.0), (1e9, 0.0)):
        train(tmp_path / f"{share}", Budget(steps=3), clip_norm=clip_norm)
        assert [line["clipped_steps"] for line in metrics(tmp_path / f"{share}")] == [share] * 3


def test_resume_is_exact(tmp_path: Path) -> None:
    """Stopped by the budget at a checkpoint's step is one thing; here the second half starts from files alone."""
    train(tmp_path / "whole", Budget(steps=11))
    torch.manual_seed(0)
    loader = StopAfter(7)
    with pytest.raises(Killed):
        train(tmp_path / "parts", Budget(steps=11), loader=loader)
    train(tmp_path / "parts", Budget(steps=11), resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    losses = [[line["loss"] for line in metrics(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_resumed_run_is_optimised_as_its_device_has_it(tmp_path: Path) -> None:
    """A GPU's optimiser is fused; its checkpoint goes on on the CPU as the CPU's own would."""
    train(tmp_path / "whole", Budget(steps=8))
    with pytest.raises(Killed):
        train(tmp_path / "parts", Budget(steps=8), loader=StopAfter(6))
    state = torch.load(tmp_path / "parts" / "trainer.pt", weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True
    write_state(tmp_path / "parts", state)
    train(tmp_path / "parts", Budget(steps=8), resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    groups = torch.load(tmp_path / "parts" / "trainer.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [group["fused"] for group in groups] == [None, None]


class Killed(Exception):
    pass


class StopAfter(Noise):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        for step, batch in enumerate(super().batches(start_step), start_step):
            if step == self.steps:
                raise Killed
            yield batch


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = read_model(a), read_model(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    states = [torch.load(run / "trainer.pt", weights_only=True) for run in (a, b)]
    assert states[0]["step"] == states[1]["step"]
    for name, tensor in states[0]["method"].items():
        assert torch.equal(tensor, states[1]["method"][name]), name
    for number, moments in states[0]["optimizer"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(value, states[1]["optimizer"]["state"][number][key]), (number, key)


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "lightning_fabric"])  # imported once; each child then starts in no time


def slow_training(run: Path, resume: bool, outcome: Connection) -> None:
    torch.set_num_threads(1)
    ended = train(run, Budget(steps=40), resume=resume, loader=Noise(pause=0.03))
    outcome.send((ended.step, ended.stopped_by))


def child(run: Path, resume: bool) -> tuple[ForkServerProcess, Connection]:
    """A process that trains, and where it says how that ended."""
    here, there = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=slow_training, args=(run, resume, there))
    process.start()
    there.close()
    return process, here


def wait_for_line(run: Path, count: int, process: ForkServerProcess) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        path = run / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"the run wrote fewer than {count} lines")


def test_kill_nine_three_times_then_resume_is_bit_identical(tmp_path: Path) -> None:
    train(tmp_path / "whole", Budget(steps=40))
    killed_at = sorted(int(x) for x in torch.randint(2, 39, (3,), generator=torch.Generator().manual_seed(1)))
    for turn, step in enumerate(killed_at):
        process, outcome = child(tmp_path / "killed", resume=turn > 0)
        wait_for_line(tmp_path / "killed", step, process)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        outcome.close()
    train(tmp_path / "killed", Budget(steps=40), resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")
    assert [line["step"] for line in metrics(tmp_path / "killed")] == list(range(1, 41))


def test_sigterm_saves_and_ends(tmp_path: Path) -> None:
    process, outcome = child(tmp_path / "run", resume=False)
    wait_for_line(tmp_path / "run", 7, process)
    process.terminate()
    assert outcome.poll(60)
    step, name = outcome.recv()
    outcome.close()
    process.join()
    assert (process.exitcode, name) == (0, "SIGTERM")
    saved = torch.load(tmp_path / "run" / "trainer.pt", weights_only=True)["step"]
    assert 7 <= saved == step < 40


def test_minutes_budget(tmp_path: Path) -> None:
    started = time.perf_counter()
    outcome = train(tmp_path / "run", Budget(minutes=1 / 60), loader=Noise(pause=0.02))
    assert outcome.step > 1
    assert 1.0 <= time.perf_counter() - started < 20


def test_accumulation_takes_so_many_batches_a_step(tmp_path: Path) -> None:
    seen = []

    class Counting(Noise):
        def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
            for batch in super().batches(start_step):
                seen.append(batch["names"])
                yield batch

    train(tmp_path / "run", Budget(steps=3), loader=Counting(), accumulate=2)
    assert len(seen) == 6
    seen.clear()
    train(tmp_path / "epochs", Budget(epochs=3), loader=Counting(), accumulate=4)
    assert len(seen) == 12, "an epoch is 4 batches, however many make a step"


def test_the_logged_loss_is_that_of_all_parts(tmp_path: Path) -> None:
    for steps, accumulate in ((4, 1), (1, 4)):
        train(tmp_path / f"{accumulate}", Budget(steps=steps), accumulate=accumulate, lr=1e-12)
    apart, together = (metrics(tmp_path / name) for name in ("1", "4"))
    assert together[0]["loss"] == pytest.approx(np.mean([line["loss"] for line in apart]), rel=0.2)
    assert together[0]["loss"] != pytest.approx(apart[3]["loss"], rel=1e-3)


def test_what_costs_time_is_measured_at_the_steps_that_are_logged(tmp_path: Path) -> None:
    asked = []

    class Measuring(Distil):
        def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            asked.append(measured())
            assert batch["progress"].device.type == "cpu"
            loss, numbers = super().loss(batch)
            return loss, numbers | ({"costly": loss.detach()} if measured() else {})

        forward = loss

    config = TrainConfig(log_every=3, accumulate=2)
    fit(make_fabric("cpu"), Measuring(), Noise(), tmp_path / "run", Budget(steps=5), config, run_config=RUN_CONFIG)
    assert asked == [part for step in (1, 0, 1, 0, 1) for part in (False, bool(step))]
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 3, 5]
    assert all("costly" in line for line in lines)


def test_what_is_due_waits_for_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 31.0, 32.0, 33.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    every = _Every(2, pause=30.0)
    assert [every.due(step) for step in range(1, 7)] == [False, True, False, True, False, False]


def test_loss_that_is_not_finite_in_an_earlier_part_names_its_files(tmp_path: Path) -> None:
    with pytest.raises(vidssl.VidsslError, match=r"loss is nan at step 3; batch: clip6\.mp4\. Lower"):
        train(tmp_path / "run", Budget(steps=20), loader=Noise(poison=6), accumulate=2)


def test_loss_that_is_not_finite_names_step_and_files(tmp_path: Path) -> None:
    with pytest.raises(vidssl.VidsslError, match=r"loss is nan at step 6; batch: clip6\.mp4"):
        train(tmp_path / "run", Budget(steps=20), loader=Noise(poison=6))
    assert torch.load(tmp_path / "run" / "trainer.pt", weights_only=True)["step"] == 5


def test_refusals(tmp_path: Path) -> None:
    train(tmp_path / "run", Budget(steps=2))
    with pytest.raises(vidssl.VidsslError, match="holds a run already; pass --resume"):
        train(tmp_path / "run", Budget(steps=2))
    with pytest.raises(vidssl.VidsslError, match=r"other settings \(train: was .*0\.0003.*now .*0\.5"):
        train(tmp_path / "run", Budget(steps=2), resume=True, lr=0.5)
    with pytest.raises(vidssl.VidsslError, match="is no run folder"):
        train(tmp_path / "nothing", Budget(steps=2), resume=True)
    with pytest.raises(vidssl.VidsslError, match="give one of steps, epochs or minutes"):
        Budget(steps=2, minutes=3)
    with pytest.raises(vidssl.VidsslError, match="choose from auto, cpu, cuda"):
        make_fabric("tpu")
    with pytest.raises(vidssl.VidsslError, match="devices: got 0; on cpu choose 1 or more"):
        make_fabric("cpu", devices=0)


@pytest.fixture
def narrow_disk() -> Iterator[None]:
    """Files can't grow beyond 1 MB: the operating system refuses to write, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = tmp_path / "run"
    train(run, Budget(steps=3))
    before = {name: (run / name).read_bytes() for name in ("trainer.pt", "model.safetensors")}
    (run / "config.json").unlink()
    request.getfixturevalue("narrow_disk")
    with pytest.raises(vidssl.VidsslError, match=r"cannot write .*model\.safetensors: File too large; free some space"):
        train(run, Budget(steps=3))
    with pytest.raises(vidssl.VidsslError, match=r"cannot write .*trainer\.pt"):
        write_state(run, {"weights": torch.zeros(1_000_000)})
    assert {name: (run / name).read_bytes() for name in before} == before
    assert not list(run.glob(".*"))


def test_a_mistake_seen_at_the_first_step_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(vidssl.VidsslError, match="loss is nan at step 0"):
        train(tmp_path / "run", Budget(steps=2), loader=Noise(poison=0))
    assert train(tmp_path / "run", Budget(steps=2), lr=0.01).step == 2


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    train(tmp_path / "run", Budget(steps=1))
    path = tmp_path / "run" / "trainer.pt"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"no checkpoint at all"):
        path.write_bytes(content)
        with pytest.raises(vidssl.VidsslError, match=r"trainer\.pt is damaged"):
            train(tmp_path / "run", Budget(steps=1), resume=True)


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    class Cliff(Distil):
        def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            error, numbers = super().loss(batch)
            return error + (error - error).sqrt(), numbers  # the root's slope at 0 is infinite

        forward = loss

    method = Cliff()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    config = TrainConfig()
    with pytest.raises(vidssl.VidsslError, match="the gradient is not finite at step 0"):
        fit(make_fabric("cpu"), method, Noise(), tmp_path / "run", Budget(steps=2), config, run_config=RUN_CONFIG)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"accumulate": 0},
        {"checkpoint_every": 0},
        {"monitor_every": -1},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"warmup": 1},
    ],
)
def test_settings_that_cannot_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(vidssl.VidsslError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_batches_reach_a_method_unrounded_in_bf16(tmp_path: Path) -> None:
    """bf16 has 8 bits: 0.80123 m of depth would become 0.80078, and rotations would be off by degrees. Only what
    autocast knows to be safe is computed with fewer bits."""
    seen = []

    class Depths(Noise):
        def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
            for batch in super().batches(start_step):
                yield batch | {"depth": torch.full((2, 3), 0.80123)}

    class Looking(Distil):
        def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            product = batch["depth"] @ batch["depth"].T
            seen.append((batch["depth"].clone(), batch["clips"].dtype, product.dtype))
            return super().loss(batch)

        forward = loss

    fabric = make_fabric("cpu", precision="bf16")
    config = TrainConfig(precision="bf16")
    fit(fabric, Looking(), Depths(), tmp_path / "run", Budget(steps=1), config, run_config=RUN_CONFIG)
    ((depth, clips, product),) = seen
    assert torch.equal(depth, torch.full((2, 3), 0.80123))
    assert (depth.dtype, clips, product) == (torch.float32, torch.uint8, torch.bfloat16)


def test_schedule() -> None:
    """Half of warm-up is half the peak; the middle of the cosine is half; the end is nothing."""
    assert schedule(0.05, 0.1) == pytest.approx(0.5)
    assert schedule(0.1, 0.1) == pytest.approx(1.0)
    assert schedule(0.55, 0.1) == pytest.approx(0.5)
    assert schedule(1.0, 0.1) == pytest.approx(0.0)
