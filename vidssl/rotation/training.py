"""How proposals and energy are learned: from views of objects in known rotations, nothing else.

G objects a batch, V views of each, P = G·V·(V-1)/2 pairs for the proposals, k alignments a pair for the energy,
R_i rotation of view i, T = R_j R_iᵀ that of a pair.

    proposals: InfoNCE over rotations.  Turned back into the object's frame, the signals of all views of an object must
               fit under no rotation at all, and under no other of a grid:   -Σ_r w_r log softmax_r scale·score(r)
               with w_r ∝ exp(-angle(r)²/2σ²) (r = no rotation, a random turn of a grid, near misses).
    energy:    InfoNCE over alignments.  Among what the proposals hold likely, and near misses of the truth, the energy
               is to be least where the error is:   -Σ_k w_k log softmax_k(-E_k), w_k ∝ exp(-error_k/5°);
               alignments near the truth also learn what would mend them, all learn how wrong they are.

Every number is a function of the batch: rotations are drawn by its step.
"""

from dataclasses import dataclass
from math import radians

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.rotation.crops import SIZE, Crops, crop
from vidssl.rotation.energy import (
    AlignmentNet,
    Alignments,
    Clouds,
    EnergyConfig,
    Judgement,
    corrected,
    draw_points,
    joined,
    registered,
    registrable,
)
from vidssl.rotation.network import NetworkConfig, SphereNet
from vidssl.rotation.posterior import flat_wigner, modes, products, score, turned_back
from vidssl.rotation.so3 import angle, exp, geodesic, grid, log, random_rotations

CONTRAST = 2048  # rotations of the contrastive grid
NEAR_MISSES = 192  # rotations about none, of some 14° each
SIGMA = 5.0  # degrees, width of the target of the proposals
SHARPNESS = 5.0  # degrees, of the target of the energy
PROPOSED, PERTURBED = 12, 4  # alignments a pair
BASIN = 35.0  # degrees: farther ones are not mended
FINAL = 0.4  # share of the budget after which every third batch is of registered alignments
SCORE_SCALE = 10.0  # divides proposals' logits for the energy's input


class RotationLearner(nn.Module):
    """Both networks and their losses, in the form that `vidssl.train.fit` trains."""

    context = None

    def __init__(self, network: NetworkConfig | None = None, energy: EnergyConfig | None = None) -> None:
        super().__init__()
        self.encoder = SphereNet(network)
        self.energy = AlignmentNet(energy)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all losses.

        Args:
            batch: `depth` [G,V,H,W] metres, `rotation` [G,V,3,3], `centre` [G,V,3] metres (the object's middle in the
                camera frame), `K` [3,3], `radius` [G] metres (as believed), `step`.
        """
        generator = torch.Generator().manual_seed(int(batch["step"]))
        groups, views = batch["depth"].shape[:2]
        crops = crop(batch["depth"].flatten(0, 1), batch["K"], batch["radius"].repeat_interleave(views), SIZE)
        signals, middle = self.encoder(crops)
        with torch.autocast(signals.device.type, enabled=False):
            rotations = batch["rotation"].flatten(0, 1)
            truth = (batch["centre"].flatten(0, 1) - crops.origin) / crops.radius[:, None]
            off = (middle - truth).norm(dim=1).mean()
            proposals = self._contrast(signals.unflatten(0, (groups, views)), batch["rotation"], generator)
        first = torch.arange(groups, device=signals.device) * views
        a, b = (
            _Side(crops[which], signals[which].detach(), middle[which].detach(), truth[which])
            for which in (first, first + 1)
        )
        mixed = torch.is_autocast_enabled(signals.device.type)
        with torch.autocast(signals.device.type, enabled=False):  # rotations in bf16 would be off by degrees
            turn = rotations[first + 1] @ rotations[first].mT
            aligned, metrics = self._align(a, b, turn, generator, int(batch["step"]), float(batch["progress"]), mixed)
        metrics |= {
            "term_proposals": proposals.detach(),
            "middle": off.detach(),
            "scale": self.encoder.scale.exp().detach(),
        }
        return proposals + 3.0 * off + aligned, metrics

    def _contrast(self, signals: Tensor, rotations: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of the proposals for [G,V,C,·] signals of views of [G,V,3,3] rotations."""
        degree = self.encoder.config.degree
        own = turned_back(signals.flatten(0, 1), rotations.flatten(0, 1)).unflatten(0, signals.shape[:2])
        first, second = torch.triu_indices(signals.shape[1], signals.shape[1], 1)
        product = products(own[:, first].flatten(0, 1), own[:, second].flatten(0, 1))
        tried = torch.cat(
            (
                torch.eye(3)[None],
                grid(CONTRAST) @ random_rotations(1, generator),
                exp(torch.randn(NEAR_MISSES, 3, generator=generator) * 0.24),
            )
        ).to(signals.device)
        angles = angle(tried)
        target = F.softmax(-angles.square() / (2 * radians(SIGMA) ** 2), dim=0)
        logits = self.encoder.scale.exp() * (product @ flat_wigner(tried, degree).T)
        return -(logits.log_softmax(dim=1) @ target).mean()

    def _align(
        self,
        a: "_Side",
        b: "_Side",
        truth: Tensor,
        generator: torch.Generator,
        step: int,
        progress: float,
        mixed: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the energy, for G pairs of views."""
        clouds = a.cloud(generator), b.cloud(generator)
        off_a, off_b = a.middle - a.truth, b.middle - b.truth
        shift = (truth @ off_a[:, :, None])[:, :, 0] - off_b  # p_b = truth p_a + shift about the believed middles
        with torch.no_grad():
            tried = self._tried(products(a.signals, b.signals), truth, generator)
            if step % 3:
                tried = corrected(tried, self._judged(clouds, tried, mixed))
            if step % 3 == 2 and progress > FINAL:  # as at the end of an estimate: mended, and registered
                half = (torch.arange(PROPOSED + PERTURBED, device=truth.device) % 2 == 0).repeat(len(truth))
                some = Alignments(*(part[half] for part in tried))
                tried = _by_pair(joined(some, registered(registrable(*clouds), some)))
        said = self._judged(clouds, tried, mixed)
        return _energy_loss(said, tried, truth, shift)

    def _judged(self, clouds: tuple[Clouds, Clouds], tried: Alignments, mixed: bool) -> Judgement:
        with torch.autocast(tried.rotation.device.type, torch.bfloat16, enabled=mixed):
            return self.energy(*clouds, tried)

    def _tried(self, product: Tensor, truth: Tensor, generator: torch.Generator) -> Alignments:
        """What the proposals hold likely, and near misses of the truth: k alignments a pair."""
        degree, pairs = self.encoder.config.degree, len(truth)
        likely, likely_scores = modes(product, degree, PROPOSED)
        most = torch.tensor([0.1] * (PERTURBED // 2) + [0.5] * (PERTURBED - PERTURBED // 2))[:, None]  # radians
        off = F.normalize(torch.randn(pairs, PERTURBED, 3, generator=generator), dim=-1)
        near = exp(off * most * torch.rand(pairs, PERTURBED, 1, generator=generator))
        missed = near.to(truth.device) @ truth[:, None]
        rotations = torch.cat((likely, missed), dim=1)
        scores = torch.cat((likely_scores, score(product, missed, degree)), dim=1)
        shifts = 0.01 * torch.randn(pairs, rotations.shape[1], 3, generator=generator).to(truth.device)
        return proposed(rotations, shifts, scores * self.encoder.scale.exp())


def _by_pair(tried: Alignments) -> Alignments:
    order = tried.pair.argsort(stable=True)
    return Alignments(*(part[order] for part in tried))


def proposed(rotations: Tensor, shifts: Tensor, logits: Tensor) -> Alignments:
    """Alignments of P pairs from [P,k,3,3], [P,k,3] and the proposals' logits [P,k]."""
    pair = torch.arange(len(rotations), device=rotations.device).repeat_interleave(rotations.shape[1])
    relative = (logits - logits.amax(dim=1, keepdim=True)) / SCORE_SCALE
    return Alignments(pair, rotations.flatten(0, 1), shifts.flatten(0, 1), relative.flatten())


@dataclass(frozen=True)
class _Side:
    """One view of each of G pairs, lengths in radii, about the crops' origins."""

    crops: Crops
    signals: Tensor
    middle: Tensor
    """[G,3], believed"""
    truth: Tensor
    """[G,3]"""

    def cloud(self, generator: torch.Generator) -> Clouds:
        """Points about the believed middles."""
        cloud = draw_points(self.crops.points, self.crops.mask, generator)
        return Clouds(cloud.points - self.middle[:, None], cloud.valid)


def _energy_loss(said: Judgement, tried: Alignments, truth: Tensor, shift: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    pairs = len(truth)
    wanted = truth[tried.pair] @ tried.rotation.mT
    error = torch.rad2deg(geodesic(truth[tried.pair], tried.rotation))
    table = error.view(pairs, -1)
    any_right = (table.amin(dim=1) < 25).float()
    target = F.softmax(-table / SHARPNESS, dim=1)
    choice = -((target * (-said.energy.view(pairs, -1)).log_softmax(dim=1)).sum(dim=1) * any_right).mean()
    near = (error < BASIN).float()
    count = near.sum().clamp(min=1)
    turn = ((said.turn - log(wanted)).norm(dim=1) * near).sum() / count
    move = ((tried.translation + said.shift - shift[tried.pair]).norm(dim=1) * near).sum() / count
    guess = F.smooth_l1_loss(said.log_error, error.clamp(min=0.3).log())
    best = said.energy.view(pairs, -1).argmin(dim=1, keepdim=True)
    right = (table.gather(1, best) < table.amin(dim=1, keepdim=True) + SHARPNESS).float()
    metrics = {
        "term_choice": choice,
        "turn_degrees": torch.rad2deg(turn),
        "shift": move,
        "term_error": guess,
        "chosen": right.mean(),
    }
    return choice + 5.0 * turn + 6.0 * move + 0.3 * guess, {name: value.detach() for name, value in metrics.items()}
