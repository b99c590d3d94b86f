"""The losses of proposals and energy: gradients everywhere, repeatable, and they fall."""

import math

import pytest
import torch
from torch import Tensor

from vidssl.datasets.mesh_views import MeshRenderer
from vidssl.datasets.solids import make_solid
from vidssl.datasets.view_batches import ViewBatches
from vidssl.rotation.energy import EnergyConfig, Judgement
from vidssl.rotation.harmonics import wigner
from vidssl.rotation.network import NetworkConfig
from vidssl.rotation.so3 import exp, random_rotations
from vidssl.rotation.training import RotationLearner, _energy_loss, proposed

NETWORK = NetworkConfig(degree=4, signals=4, widths=(8, 8, 16, 16), hidden=16)
ENERGY = EnergyConfig(widths=(8, 8, 8), hidden=16)


@pytest.fixture(scope="module")
def batch() -> dict[str, Tensor]:
    drawn = ViewBatches(MeshRenderer([make_solid(seed) for seed in (7, 8)]), objects=2, views=3).draw(0)
    return {name: value for name, value in drawn.items() if name != "names"}


def learner() -> RotationLearner:
    torch.manual_seed(0)
    return RotationLearner(NETWORK, ENERGY)


def at(batch: dict[str, Tensor], step: int, progress: float) -> dict[str, Tensor]:
    return batch | {"step": torch.tensor(step), "progress": torch.tensor(progress)}


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("progress", [0.1, 0.9])
def test_every_parameter_has_a_finite_gradient(batch: dict[str, Tensor], step: int, progress: float) -> None:
    method = learner()
    loss, metrics = method.loss(at(batch, step, progress))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(math.isfinite(float(value)) for value in metrics.values())
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_the_loss_is_a_function_of_batch_and_step(batch: dict[str, Tensor]) -> None:
    """Whatever torch's own generator holds, and whatever was computed before."""
    method, losses = learner(), []
    for seed, step in ((1, 2), (2, 2), (3, 5)):
        torch.manual_seed(seed)
        with torch.no_grad():
            losses.append(float(method.loss(at(batch, step, 0.9))[0]))
    assert losses[0] == losses[1] != losses[2]


def test_the_loss_falls_on_one_batch(batch: dict[str, Tensor]) -> None:
    method = learner()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    seen = []
    for _ in range(15):
        loss, metrics = method.loss(at(batch, 0, 0.1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append((float(loss.detach()), float(metrics["term_proposals"])))
    (first, first_proposals), (last, last_proposals) = seen[0], seen[-1]
    assert last < 0.9 * first
    assert last_proposals < first_proposals


def test_proposals_know_the_truth_of_perfect_signals(batch: dict[str, Tensor]) -> None:
    """Signals that are the same in the object's frame fit under no turn best: less than those of a wrong pose."""
    method = learner()
    rotations = random_rotations(3, torch.Generator().manual_seed(0))
    own = torch.randn(4, 25, generator=torch.Generator().manual_seed(1))
    own = own / own.norm()
    signals = torch.stack([own @ torch.block_diag(*(D[i] for D in wigner(rotations, 4))).T for i in range(3)])
    losses = []
    for poses in (rotations, rotations @ exp(torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]]))):
        generator = torch.Generator().manual_seed(2)
        losses.append(float(method._contrast(signals[None], poses[None], generator).detach()))
    assert losses[0] < losses[1] - 0.5


def test_relative_logits() -> None:
    rotations = torch.eye(3).expand(2, 2, 3, 3)
    tried = proposed(rotations, torch.zeros(2, 2, 3), torch.tensor([[20.0, 10.0], [-5.0, 0.0]]))
    assert tried.pair.tolist() == [0, 0, 1, 1]
    assert tried.score.tolist() == pytest.approx([0, -1, -0.5, 0])
    assert tried.rotation.shape == (4, 3, 3)


def test_the_energy_loss_by_hand() -> None:
    """One pair, three alignments 0, 10 and 90 degrees off about z; the truth is no rotation, no shift."""
    degrees = torch.tensor([0.0, 10.0, 90.0])
    off = torch.deg2rad(degrees)[:, None] * torch.tensor([0.0, 0, 1])
    tried = proposed(exp(off)[None], torch.zeros(1, 3, 3), torch.zeros(1, 3))
    energy = torch.tensor([0.0, 1.0, 2.0])
    # the first two are near enough to be mended: one says what is right, the other says nothing and is 10 degrees off
    shift = torch.tensor([[0.0, 0, 0], [0.3, 0.4, 0], [9, 9, 9]])
    said = Judgement(energy, torch.zeros(3, 3), shift, degrees.clamp(min=0.3).log())
    loss, metrics = _energy_loss(said, tried, torch.eye(3)[None], torch.zeros(1, 3))
    weights = [math.exp(-d / 5) for d in (0, 10, 90)]
    norm = math.log(sum(math.exp(-e) for e in (0, 1, 2)))
    choice = sum(w / sum(weights) * (e + norm) for w, e in zip(weights, (0, 1, 2), strict=True))
    assert float(metrics["term_choice"]) == pytest.approx(choice, rel=1e-5)
    assert float(metrics["turn_degrees"]) == pytest.approx(5, rel=1e-3)  # of 0 and 10
    assert float(metrics["shift"]) == pytest.approx(0.25)  # of 0 and 0.5
    assert float(metrics["term_error"]) == pytest.approx(0, abs=1e-4)
    assert float(metrics["chosen"]) == 1
    assert float(loss) == pytest.approx(choice + 5 * math.radians(5) + 6 * 0.25, rel=1e-3)


def test_what_would_mend_is_the_turn_to_the_truth() -> None:
    """exp(turn) R = truth: the loss of that turn and of the shift to the truth is none."""
    truth = random_rotations(1, torch.Generator().manual_seed(0))
    turn, shift = torch.tensor([[0.1, -0.2, 0.05]]), torch.tensor([[0.02, 0.0, -0.01]])
    tried = proposed((exp(-turn) @ truth)[None], torch.zeros(1, 1, 3), torch.zeros(1, 1))
    said = Judgement(torch.zeros(1), turn, shift, torch.zeros(1))
    _, metrics = _energy_loss(said, tried, truth, shift)
    assert float(metrics["turn_degrees"]) < 0.05
    assert float(metrics["shift"]) < 1e-6
