"""Fits an estimator's choice on pairs of objects that its networks did not learn from."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.rotation.choice import Choice, Reliability, fit_choice
from vidssl.rotation.energy import Alignments
from vidssl.rotation.estimate import Pair, RotationEstimator
from vidssl.rotation.so3 import geodesic

FEWEST = 40  # pairs; a choice fitted on fewer knows nothing


def calibrate(
    estimator: RotationEstimator, pairs: Iterable[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]], seed: int = 0
) -> Reliability:
    """Fit and set the estimator's choices, the quick one and the thorough one.

    Args:
        estimator: with trained networks.
        pairs: (depth_a, depth_b, K, rotation), as the estimator will meet them, of objects new to it.
        seed: of the fit.

    Returns:
        How well the thorough one chooses, on pairs left out in turn.

    Raises:
        VidsslError: fewer than FEWEST pairs.
    """
    thorough, quick = _Record(), _Record()
    with torch.no_grad():
        for depth_a, depth_b, K, rotation in pairs:
            scene = estimator.look(Pair.of(depth_a, depth_b, K))
            thorough.add(*estimator.alignments(scene), rotation)
            quick.add(*estimator.quick_alignments(scene), rotation)
    estimator.quick, _ = quick.fit(seed)
    estimator.choice, reliability = thorough.fit(seed)
    return reliability


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

    def fit(self, seed: int) -> tuple[Choice, Reliability]:
        if len(self.numbers) < FEWEST:
            raise VidsslError(f"calibration: got {len(self.numbers)} pairs; at least {FEWEST} are needed")
        return fit_choice(torch.stack(self.numbers), torch.stack(self.rotations), torch.stack(self.errors), seed)
