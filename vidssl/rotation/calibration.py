"""Fits an estimator's choices on pairs of objects that its networks did not learn from."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.rotation.choice import RIGHT, Choice, Judged, fit_choice
from vidssl.rotation.energy import Alignments
from vidssl.rotation.estimate import Pair, RotationEstimator
from vidssl.rotation.so3 import geodesic

FEWEST, FEWEST_OBJECTS = 40, 2  # pairs, objects; a choice fitted on fewer knows nothing


@dataclass(frozen=True)
class Example:
    """Two depth views [H,W] metres with the rotation [3,3] between them, and the number of the object they show."""

    depth_a: ArrayLike
    depth_b: ArrayLike
    K: ArrayLike
    rotation: ArrayLike
    object: int


@dataclass(frozen=True)
class Reliability:
    """How an estimator does on pairs of objects that its choices were not fitted on."""

    pairs: int
    present: float
    """share of the pairs with a right alignment, within RIGHT degrees, among the final ones"""
    chosen: float
    """share of those in which a right one is chosen"""
    chance: float
    """mean probability that the estimates were given …"""
    right: float
    """… and the share of them that is right"""
    quick: float
    """share of the pairs with a sure answer before the energy is asked to mend"""


def calibrate(estimator: RotationEstimator, pairs: Iterable[Example], seed: int = 0) -> Reliability:
    """Fit and set the estimator's choices, the quick one and, for where that is not sure, the thorough one.

    Args:
        estimator: with trained networks.
        pairs: as the estimator will meet them, of objects new to it; those that show too little are left out.
        seed: of the fit.

    Raises:
        VidsslError: fewer than FEWEST pairs or FEWEST_OBJECTS objects that can be estimated.
    """
    thorough, quick, objects = _Record(), _Record(), []
    with torch.no_grad():
        for pair in pairs:
            try:
                scene = estimator.look(Pair.of(pair.depth_a, pair.depth_b, pair.K))
            except VidsslError:  # of a thin thing seen from its end there is too little
                continue
            thorough.add(*estimator.alignments(scene), pair.rotation)
            quick.add(*estimator.quick_alignments(scene), pair.rotation)
            objects.append(pair.object)
    if len(objects) < FEWEST or len(set(objects)) < FEWEST_OBJECTS:
        raise VidsslError(
            f"calibration: got {len(objects)} pairs of {len(set(objects))} objects; at least {FEWEST} of "
            f"{FEWEST_OBJECTS} are needed"
        )
    groups = torch.tensor(objects)
    estimator.quick, first = quick.fit(groups, seed)
    asked = first.chance < estimator.quick.sure
    estimator.choice, second = thorough.fit(groups, seed, asked)
    error = torch.where(asked, second.error, first.error)
    chance = torch.where(asked, second.chance, first.chance)
    present = (torch.stack(thorough.errors) < RIGHT).any(dim=1)
    right = error < RIGHT
    chosen = float(right[present].float().mean()) if present.any() else 0.0
    shares = [float(share.float().mean()) for share in (present, chance, right, ~asked)]
    return Reliability(len(objects), shares[0], chosen, *shares[1:])


class _Record:
    """Alignments of pairs, what is known about them, and how wrong they are."""

    def __init__(self) -> None:
        self.numbers: list[Tensor] = []
        self.rotations: list[Tensor] = []
        self.errors: list[Tensor] = []

    def add(self, tried: Alignments, numbers: Tensor, rotation: ArrayLike) -> None:
        truth = torch.tensor(np.asarray(rotation, np.float32))
        self.numbers.append(numbers)
        self.rotations.append(tried.rotation)
        self.errors.append(torch.rad2deg(geodesic(tried.rotation, truth.expand_as(tried.rotation))))

    def fit(self, groups: Tensor, seed: int, asked: Tensor | None = None) -> tuple[Choice, Judged]:
        numbers, rotations, errors = (torch.stack(part) for part in (self.numbers, self.rotations, self.errors))
        return fit_choice(numbers, rotations, errors, groups, seed, asked)
