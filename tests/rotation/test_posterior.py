"""Scores of all rotations: their meaning, their peak, and the modes against a search by hand."""

import pytest
import torch

from vidssl.rotation.harmonics import spherical_harmonics, wigner
from vidssl.rotation.posterior import GRID, flat_wigner, grid_wigner, modes, products, score, turned_back
from vidssl.rotation.so3 import geodesic, random_rotations

L = 4


@pytest.fixture(scope="module")
def signals() -> torch.Tensor:
    """Three views' signals: a few bumps on the sphere in each of four channels."""
    generator = torch.Generator().manual_seed(0)
    places = torch.nn.functional.normalize(torch.randn(3, 4, 5, 3, generator=generator), dim=-1)
    heights = torch.randn(3, 4, 5, 1, generator=generator)
    found = (heights * spherical_harmonics(places, L)).sum(2)
    return found / found.flatten(1).norm(dim=1)[:, None, None]


@pytest.fixture(scope="module")
def turns() -> torch.Tensor:
    return random_rotations(3, torch.Generator().manual_seed(1))


def turned(signals: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """D(R) Z, entry by entry of the definition."""
    whole = [torch.block_diag(*(block[i] for block in wigner(turns, L))) for i in range(len(turns))]
    return torch.stack([Z @ D.T for Z, D in zip(signals, whole, strict=True)])


def test_score_is_the_inner_product_with_the_turned_signals(signals: torch.Tensor, turns: torch.Tensor) -> None:
    other = signals.flip(0)
    tried = torch.stack((turns, turns.mT), dim=1)  # two rotations for each pair
    found = score(products(signals, other), tried, L)
    for k in range(2):
        by_hand = (other * turned(signals, tried[:, k])).flatten(1).sum(1)
        torch.testing.assert_close(found[:, k], by_hand, atol=1e-6, rtol=0)


def test_the_truth_scores_best(signals: torch.Tensor, turns: torch.Tensor) -> None:
    product = products(signals, turned(signals, turns))
    right = score(product, turns[:, None], L)
    torch.testing.assert_close(right, torch.ones(3, 1), atol=1e-5, rtol=0)
    everything = product @ grid_wigner(L, torch.device("cpu"))[1]
    assert everything.shape == (3, GRID)
    assert (everything < right).all()
    best, _ = modes(product, L, 1)
    assert torch.rad2deg(geodesic(best[:, 0], turns)).max() < 15  # the grid's farthest hole is 13 degrees wide


def test_modes_against_a_search_of_the_whole_grid(signals: torch.Tensor) -> None:
    product = products(signals, signals.flip(0))
    found, scores = modes(product, L, 5, apart=25.0)
    rotations, matrices = grid_wigner(L, torch.device("cpu"))
    assert scores.shape == (3, 5)
    for pair, all_scores in enumerate(product @ matrices):
        chosen: list[int] = []
        for place in all_scores.argsort(descending=True).tolist():
            near = [torch.rad2deg(geodesic(rotations[place], rotations[other])) < 25 for other in chosen]
            if not any(near):
                chosen.append(place)
            if len(chosen) == 5:
                break
        torch.testing.assert_close(found[pair], rotations[chosen])
        torch.testing.assert_close(scores[pair], all_scores[chosen])
    assert (scores.diff(dim=1) <= 0).all()


def test_as_many_modes_as_an_estimate_asks_for_are_apart(signals: torch.Tensor) -> None:
    found, _ = modes(products(signals, signals), L, 24)
    angles = torch.rad2deg(geodesic(found[:, :, None], found[:, None]))
    angles.diagonal(dim1=1, dim2=2).fill_(180)
    assert float(angles.min()) > 19.9


def test_turned_back_undoes_a_rotation(signals: torch.Tensor, turns: torch.Tensor) -> None:
    torch.testing.assert_close(turned_back(turned(signals, turns), turns), signals, atol=1e-5, rtol=0)


def test_flat_wigner_holds_every_entry(turns: torch.Tensor) -> None:
    assert flat_wigner(turns, L).shape == (3, 1 + 9 + 25 + 49 + 81)
    torch.testing.assert_close(flat_wigner(turns, L)[:, 1:10].unflatten(1, (3, 3)), wigner(turns, L)[1])
