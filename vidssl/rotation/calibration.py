"""Fits an estimator's choice on pairs of objects that its networks did not learn from."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.rotation.choice import RIGHT, Choice, fit_choice
from vidssl.rotation.estimate import Pair, RotationEstimator
from vidssl.rotation.so3 import geodesic

FEWEST = 30  # pairs; a choice fitted on fewer knows nothing


def calibrate(
    estimator: RotationEstimator,
    pairs: Iterable[tuple[NDArray[Any], NDArray[Any], ArrayLike, ArrayLike]],
    seed: int = 0,
) -> tuple[Choice, dict[str, float]]:
    """A choice for this estimator, and how well it does on these pairs.

    Args:
        estimator: with trained networks.
        pairs: (depth_a, depth_b, K, rotation), as the estimator will meet them, of objects new to it.
        seed: of the fit.

    Returns:
        The choice, also set as the estimator's; and `present`, the share of pairs with a right alignment (within 5°)
        among the final ones, `chosen`, the share of those in which it is the one chosen, and `pairs`.

    Raises:
        VidsslError: fewer than FEWEST pairs.
    """
    numbers, errors = [], []
    for depth_a, depth_b, K, rotation in pairs:
        with torch.inference_mode():
            tried, about = estimator.alignments(Pair.of(depth_a, depth_b, K))
            truth = torch.from_numpy(np.asarray(rotation, np.float32))
            errors.append(torch.rad2deg(geodesic(tried.rotation, truth.expand_as(tried.rotation))).clone())
        numbers.append(about.clone())
    if len(numbers) < FEWEST:
        raise VidsslError(f"calibration: got {len(numbers)} pairs; at least {FEWEST} are needed")
    table, found = torch.stack(numbers), torch.stack(errors)
    choice = fit_choice(table, found, seed)
    estimator.choice = choice
    return choice, _success(choice, table, found)


def _success(choice: Choice, numbers: Tensor, errors: Tensor) -> dict[str, float]:
    with torch.no_grad():
        best = choice(numbers)[:, :-1].argmax(dim=1, keepdim=True)
    right = errors < RIGHT
    present = right.any(dim=1)
    chosen = right.gather(1, best)[:, 0][present].float().mean() if present.any() else torch.tensor(0.0)
    return {"pairs": float(len(errors)), "present": float(present.float().mean()), "chosen": float(chosen)}
