"""Scores of all rotations between two views at once, and the modes among them.

P pairs, C signals, L degree, G rotations of a grid, k modes, W = Σ(2l+1)² entries of all Wigner matrices together.

    Z_a, Z_b [P,C,(L+1)²] -> products of each degree [P,W] -> times the grid's Wigner matrices [W,G] -> scores [P,G]
"""

from functools import lru_cache
from math import cos, radians

import torch
from torch import Tensor

from vidssl.rotation.harmonics import wigner
from vidssl.rotation.so3 import grid

GRID = 6144  # rotations; a random one is about 6.8° from the nearest
PEAKS = 1024  # rotations of the grid among which modes are looked for
APART = 20.0  # degrees: modes are at least so far from each other


def flat_wigner(rotations: Tensor, degree: int) -> Tensor:
    """Wigner matrices of all degrees in one row a rotation: [n,3,3] -> [n,W]."""
    return torch.cat([block.flatten(1) for block in wigner(rotations, degree)], dim=1)


def products(first: Tensor, second: Tensor) -> Tensor:
    """[P,C,(L+1)²] of views a and of views b -> [P,W] with score(R) = <products, flat_wigner(R)> = <Z_b, D(R) Z_a>."""
    return torch.cat(
        [
            torch.einsum("pcm,pcn->pmn", b, a).flatten(1)
            for a, b in zip(by_degree(first), by_degree(second), strict=True)
        ],
        dim=1,
    )


def by_degree(signals: Tensor) -> list[Tensor]:
    """[...,(L+1)²] -> for l = 0…L the [...,2l+1] of that degree."""
    degrees = round(signals.shape[-1] ** 0.5)
    return list(signals.split([2 * ell + 1 for ell in range(degrees)], dim=-1))


def turned_back(signals: Tensor, rotations: Tensor) -> Tensor:
    """Signals [n,C,(L+1)²] of views of rotations [n,3,3], as they would be in the object's own frame: D(R)ᵀ Z."""
    parts = by_degree(signals)
    blocks = wigner(rotations, len(parts) - 1)
    return torch.cat([part @ block for part, block in zip(parts, blocks, strict=True)], dim=-1)


@lru_cache(maxsize=2)
@torch.inference_mode(False)  # made in the first evaluation, used in training too
def grid_wigner(degree: int, device: torch.device, count: int = GRID) -> tuple[Tensor, Tensor]:
    """The grid [G,3,3] and its Wigner matrices, transposed [W,G]."""
    rotations = grid(count)
    return rotations.to(device), flat_wigner(rotations, degree).T.contiguous().to(device)


def modes(product: Tensor, degree: int, count: int, apart: float = APART) -> tuple[Tensor, Tensor]:
    """The best rotations of the grid, each at least `apart` degrees from the better ones.

    Args:
        product: [P,W], see `products`.
        degree: L.
        count: k.
        apart: degrees.

    Returns:
        Rotations [P,k,3,3], and their scores [P,k] in -1…1, best first.
    """
    rotations, matrices = grid_wigner(degree, product.device)
    scores, places = (product @ matrices).topk(PEAKS, dim=1)  # peaks are among the best of the grid
    found = rotations[places]
    flat = found.flatten(2)
    close = flat @ flat.mT > 1 + 2 * cos(radians(apart))  # the trace of RᵀS at that angle
    pairs, left, chosen = torch.arange(len(product), device=product.device), scores.clone(), []
    for _ in range(count):
        place = left.argmax(dim=1)
        chosen.append(place)
        left.masked_fill_(close[pairs, place], -torch.inf)
    which = torch.stack(chosen, dim=1)
    return found[pairs[:, None], which], scores.gather(1, which)


def score(product: Tensor, rotations: Tensor, degree: int) -> Tensor:
    """Scores [P,k] of rotations [P,k,3,3] of each pair."""
    matrices = flat_wigner(rotations.flatten(0, 1), degree).unflatten(0, rotations.shape[:2])
    return torch.einsum("pw,pkw->pk", product, matrices)
