"""Fits an estimator's choice on pairs of objects that its networks did not learn from."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike

from vidssl.errors import VidsslError
from vidssl.rotation.choice import Reliability, fit_choice
from vidssl.rotation.estimate import Pair, RotationEstimator
from vidssl.rotation.so3 import geodesic

FEWEST = 40  # pairs; a choice fitted on fewer knows nothing


def calibrate(
    estimator: RotationEstimator, pairs: Iterable[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]], seed: int = 0
) -> Reliability:
    """Fit and set the estimator's choice.

    Args:
        estimator: with trained networks.
        pairs: (depth_a, depth_b, K, rotation), as the estimator will meet them, of objects new to it.
        seed: of the fit.

    Returns:
        How well it chooses, on pairs left out in turn.

    Raises:
        VidsslError: fewer than FEWEST pairs.
    """
    numbers, rotations, errors = [], [], []
    with torch.no_grad():
        for depth_a, depth_b, K, rotation in pairs:
            tried, about = estimator.alignments(Pair.of(depth_a, depth_b, K))
            truth = torch.tensor(np.asarray(rotation, np.float32))
            numbers.append(about)
            rotations.append(tried.rotation)
            errors.append(torch.rad2deg(geodesic(tried.rotation, truth.expand_as(tried.rotation))))
    if len(numbers) < FEWEST:
        raise VidsslError(f"calibration: got {len(numbers)} pairs; at least {FEWEST} are needed")
    estimator.choice, reliability = fit_choice(torch.stack(numbers), torch.stack(rotations), torch.stack(errors), seed)
    return reliability
