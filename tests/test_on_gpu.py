"""On a GPU: every method trains in both precisions, and what it leaves is at home on the CPU too."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractors import random_extractor
from torch import Tensor

import vidssl
from vidssl.checkpoint import read_state
from vidssl.core import sample_key
from vidssl.core.random import mix_ints
from vidssl.encoders import build_encoder
from vidssl.encoders.context import build_context
from vidssl.methods import METHODS, find_method
from vidssl.methods.flow import dis_flow
from vidssl.streaming import StreamingModule
from vidssl.train import Budget, TrainConfig, fit, make_fabric

DEVICE = "cuda"
SIZE = (32, 32)
CLIPS, FRAMES = 4, 8
STEPS = 3  # before a run is cut off
OPTIONS: dict[str, dict[str, Any]] = {"moco": {"queue": 12}, "wmse": {"dim": 2}}  # that do with four clips
TOLERANCE = 1e-3  # of the largest feature: float32 sums in another order, through up to 20 layers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Killed(Exception):
    pass


class Drifts:
    """Clips of drifting noise as a function of the step; before step `end` the process is killed."""

    steps_per_epoch = 4

    def __init__(self, end: int | None = None) -> None:
        self.end = end

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        step = start_step
        while True:
            if step == self.end:
                raise Killed
            yield batch(step)
            step += 1


def batch(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(mix_ints(3, step))
    still = torch.randint(0, 256, (CLIPS, 3, *SIZE), dtype=torch.uint8, generator=generator)
    axis = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]])
    return {
        "clips": torch.stack([still.roll(t, dims=-1) for t in range(FRAMES)], dim=1),
        "rotation": torch.linalg.matrix_exp(axis * torch.linspace(0.2, 0.5, CLIPS)[:, None, None]),
        "video": torch.arange(CLIPS),
        "key": torch.tensor([sample_key(0, step, i) for i in range(CLIPS)]),
        "names": [f"clip{i}" for i in range(CLIPS)],
    }


def train(name: str, run: Path, precision: Any, device: str, *, end: int | None = None, resume: bool = False) -> Any:
    """`STEPS` + 1 steps of a method, or as many as there are before `end`."""
    torch.manual_seed(0)
    chosen = find_method(name)
    network = chosen.default_encoder
    method = chosen(build_encoder(network, SIZE), chosen.default_views(SIZE), **OPTIONS.get(name, {}))
    run_config = {
        "encoder": {"name": network, "dim": method.encoder.dim},
        "context": None if method.context is None else {"name": method.context.name, "dim": method.context.dim},
        "output": method.output,
        "image_size": list(SIZE),
        "fps": None,
    }
    config = TrainConfig(precision=precision, log_every=1, checkpoint_every=STEPS)
    fabric = make_fabric(device, precision=precision)
    budget = Budget(steps=STEPS + 1)
    return fit(fabric, method, Drifts(end), run, budget, config, run_config=run_config, resume=resume)


def cut_off(name: str, run: Path, precision: str, device: str) -> None:
    with pytest.raises(Killed):
        train(name, run, precision, device, end=STEPS)


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors(part)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, *SIZE, 3), dtype=np.uint8)


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.device.type == DEVICE
    assert float((found.cpu() - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_run_of_the_gpu_goes_on_and_is_used_on_the_cpu(name: str, precision: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cut_off(name, run, precision, DEVICE)
    assert [line["step"] for line in lines(run)] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["gradient_norm"]) for line in lines(run))
    state = read_state(run)
    assert state is not None
    assert state["step"] == STEPS
    assert {tensor.device.type for tensor in tensors(state)} == {"cpu"}
    assert all(bool(tensor.isfinite().all()) for tensor in tensors(state["method"]))

    here, there = (vidssl.load_encoder(run, device=device) for device in ("cpu", DEVICE))
    assert_near(there(pictures(2, FRAMES)), here(pictures(2, FRAMES)))
    if here.window is None or here.context is None:
        for frame in pictures(3):
            assert_near(there.step(frame), here.step(frame))

    assert train(name, run, precision, "cpu", resume=True).step == STEPS + 1
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    assert math.isfinite(lines(run)[-1]["loss"])


def test_a_run_of_the_cpu_goes_on_on_the_gpu(tmp_path: Path) -> None:
    cut_off("cpc", tmp_path / "run", "32", "cpu")
    assert train("cpc", tmp_path / "run", "32", DEVICE, resume=True).step == STEPS + 1
    assert math.isfinite(lines(tmp_path / "run")[-1]["loss"])


def test_losses_are_those_of_the_cpu(tmp_path: Path) -> None:
    """VICReg draws nothing at random but its views, which are functions of the keys."""
    runs = {tmp_path / "here": "cpu", tmp_path / "there": DEVICE}
    for run, device in runs.items():
        cut_off("vicreg", run, "32", device)
    first = [lines(run)[0]["loss"] for run in runs]
    assert first[1] == pytest.approx(first[0], rel=1e-2)  # TF32 convolutions and another order of sums


def test_the_gru_is_float32_in_mixed_precision() -> None:
    torch.manual_seed(0)
    context = build_context("gru", 16, 32).to(DEVICE)
    features = torch.randn(2, 6, 16, device=DEVICE)
    exact = context(features)
    state, steps = None, []
    with torch.autocast(DEVICE, torch.bfloat16):
        whole = context(features)
        for t in range(6):
            out, state = context.step(features[:, t], state)
            steps.append(out)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole, exact)
    torch.testing.assert_close(torch.stack(steps, 1), exact, rtol=1e-3, atol=1e-3)


def test_flow_is_that_of_the_cpu() -> None:
    clips = batch(0)["clips"] / 255
    with torch.autocast(DEVICE, torch.bfloat16):
        found = dis_flow(clips.to(DEVICE))
    assert found.device.type == DEVICE
    different = (found.cpu() - dis_flow(clips)).abs() > 0.5  # a grey level may be rounded to the other side
    assert float(different.float().mean()) < 0.01


def test_a_mask_of_the_gpu_resets_its_streams() -> None:
    extractor = random_extractor("small-motion", SIZE, device=DEVICE)
    frames = pictures(3, 2)
    extractor.reset(batch=2)
    for now in frames[:2]:
        extractor.step(now)
    extractor.reset_rows(torch.tensor([True, False], device=DEVICE))
    found = extractor.step(frames[2])
    extractor.reset()
    torch.testing.assert_close(found[0], extractor.step(frames[2, 0]), rtol=1e-4, atol=1e-5)


def test_a_stream_without_memory_runs_where_its_encoder_is() -> None:
    extractor = random_extractor("small-motion", SIZE, device=DEVICE)
    module = StreamingModule(extractor, (48, 40))
    assert {tensor.device.type for tensor in module.state.values()} == {DEVICE}
    frame = torch.randint(0, 256, (1, 48, 40, 3), dtype=torch.uint8, device=DEVICE)
    feature, *_ = module(frame, torch.tensor([True], device=DEVICE), *module.state.values())
    torch.testing.assert_close(feature[0], extractor.step(frame[0]), rtol=1e-2, atol=1e-3)  # the module has TF32
