"""Batches of views: a function of the step, with a truth that the pixels agree with."""

import threading
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from simple_meshes import box

from vidssl.datasets.mesh_views import MeshRenderer
from vidssl.datasets.view_batches import ViewBatches
from vidssl.errors import VidsslError
from vidssl.rotation.clouds import FEWEST_POINTS, backproject
from vidssl.rotation.so3 import geodesic

SIZES = ((0.12, 0.09, 0.05), (0.1, 0.1, 0.14), (0.06, 0.15, 0.08))


@pytest.fixture(scope="module")
def renderer() -> MeshRenderer:
    return MeshRenderer([box(size, name=f"box-{i}") for i, size in enumerate(SIZES)])


@pytest.fixture(scope="module")
def batches(renderer: MeshRenderer) -> ViewBatches:
    return ViewBatches(renderer, objects=2, views=3, seed=5)


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    tensors = [name for name in first if name != "names"]
    alike = all(torch.equal(first[name], second[name]) for name in tensors)
    return alike and first.keys() == second.keys() and first["names"] == second["names"]


def test_shapes_and_ranges(batches: ViewBatches) -> None:
    batch = batches.draw(0)
    assert {name: tuple(value.shape) for name, value in batch.items() if name != "names"} == {
        "depth": (2, 3, 128, 128),
        "rotation": (2, 3, 3, 3),
        "centre": (2, 3, 3),
        "radius": (2,),
        "K": (3, 3),
    }
    assert all(value.dtype == torch.float32 for name, value in batch.items() if name != "names")
    seen = batch["depth"][batch["depth"] > 0]
    assert 0.68 < float(seen.min()) < float(seen.max()) < 0.92
    off = batch["centre"] - torch.tensor([0, 0, 0.8])
    assert 0 < float(off.abs().max()) <= 0.01
    for name, radius in zip(batch["names"], batch["radius"], strict=True):
        true = np.linalg.norm(SIZES[int(name[-1])]) / 2
        assert np.exp(-0.18) <= float(radius) / true <= np.exp(0.18)


def test_a_batch_is_a_function_of_seed_and_step(renderer: MeshRenderer, batches: ViewBatches) -> None:
    first = list(islice(batches.batches(0), 3))
    assert same(first[2], batches.draw(2))
    resumed = next(iter(ViewBatches(renderer, objects=2, views=3, seed=5).batches(2)))  # as after a kill
    assert same(first[2], resumed)
    assert not torch.equal(first[0]["depth"], first[1]["depth"])
    other = ViewBatches(renderer, objects=2, views=3, seed=6).draw(2)
    assert not torch.equal(first[2]["rotation"], other["rotation"])


def test_closing_ends_the_rendering(batches: ViewBatches) -> None:
    def rendering() -> int:
        return sum(thread.name == "clips" for thread in threading.enumerate())

    before, stream = rendering(), batches.batches(3)
    assert same(next(stream), batches.draw(3))
    assert rendering() == before + 1
    stream.close()  # type: ignore[attr-defined]
    assert rendering() == before


def test_thin_things_are_not_shown_from_their_end() -> None:
    """Views with next to nothing in them are drawn anew; of what never shows enough the name is said."""
    thin = ViewBatches(MeshRenderer([box((0.0025, 0.0025, 0.2), name="rod")]), objects=24, views=3, seed=0)
    batch = thin.draw(0)
    assert int((batch["depth"] > 0).sum((2, 3)).min()) >= FEWEST_POINTS
    assert same(batch, thin.draw(0))
    turned = batch["rotation"].flatten(0, 1)
    assert torch.allclose(turned @ turned.mT, torch.eye(3).expand_as(turned), atol=1e-5)
    needle = ViewBatches(MeshRenderer([box((0.0012, 0.0012, 0.2), name="needle")]), objects=24, views=3, seed=0)
    for step in range(3):
        batch = needle.draw(step)
        assert int((batch["depth"] > 0).sum((2, 3)).min()) > 0, "the best there is"
    with pytest.raises(VidsslError, match=r"hair: nothing of it can be seen; .* leave it out"):
        ViewBatches(MeshRenderer([box((1e-6, 1e-6, 0.2), name="hair")]), objects=2, views=2).draw(0)


def test_every_object_once_an_epoch(batches: ViewBatches) -> None:
    """Three objects, two a batch: three batches are two epochs, each in its own order."""
    assert batches.steps_per_epoch == 2
    names = [name for batch in islice(batches.batches(0), 3) for name in batch["names"]]
    assert sorted(names[:3]) == sorted(names[3:]) == ["box-0", "box-1", "box-2"]


def test_the_truth_is_what_the_pixels_show(batches: ViewBatches) -> None:
    """Back-projected, taken about the centre and turned back, the points lie on the box: within 3 deviations of the
    noise (at most 1.5 mm) times the slant, all but a few."""
    batch = batches.draw(1)
    for group, name in enumerate(batch["names"]):
        half = np.array(SIZES[int(name[-1])]) / 2
        for view in range(3):
            points = backproject(batch["depth"][group, view].numpy(), batch["K"].numpy())
            own = (points - batch["centre"][group, view].numpy()) @ batch["rotation"][group, view].numpy()
            outside = np.linalg.norm(np.maximum(np.abs(own) - half, 0), axis=1)
            inside = np.maximum(half - np.abs(own), 0).min(axis=1)
            assert np.quantile(outside + inside * (outside == 0), 0.95) < 0.004


def test_the_rotation_of_a_pair_takes_points_to_the_other_view(batches: ViewBatches) -> None:
    """p_b = R p_a about the centres with R = R_b R_aᵀ; the two nearest views, which share most of what they see."""
    pairs = [(batch, g, i) for batch in islice(batches.batches(0), 8) for g in range(2) for i in (1, 2)]
    angles = [float(geodesic(b["rotation"][g, 0], b["rotation"][g, i])) for b, g, i in pairs]
    batch, group, view = pairs[int(np.argmin(angles))]
    assert np.degrees(min(angles)) < 45
    assert np.degrees(max(angles)) > 120
    a, b = (backproject(batch["depth"][group, i].numpy(), batch["K"].numpy()) for i in (0, view))
    Ra, Rb = (batch["rotation"][group, i].numpy() for i in (0, view))
    ca, cb = (batch["centre"][group, i].numpy() for i in (0, view))
    tree = cKDTree(b)
    right = np.median(tree.query((a - ca) @ (Rb @ Ra.T).T + cb)[0])
    wrong = np.median(tree.query((a - ca) @ (Ra @ Rb.T).T + cb)[0])
    assert right < 0.003
    assert wrong > 1.5 * right


def test_some_views_are_clean_and_some_are_not(renderer: MeshRenderer) -> None:
    """Dropout leaves holes in what a clean camera sees: between none and a quarter, and the stripe's third."""
    batch = ViewBatches(renderer, objects=8, views=2, centre=0.0).draw(0)
    index = np.repeat([int(name[-1]) for name in batch["names"]], 2)
    clean = renderer.depth(index, batch["rotation"].flatten(0, 1).numpy())
    lost = 1 - (batch["depth"].flatten(0, 1).numpy() > 0).sum((1, 2)) / (clean > 0).sum((1, 2))
    assert lost.min() >= 0
    assert lost.max() < 0.25 + 0.3
    assert np.ptp(lost) > 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objects": 0}, "got objects=0, views=3; give at least 1 object, 2 views"),
        ({"views": 1}, "got objects=24, views=1"),
        ({"centre": -0.01}, "got centre=-0.01, belief=0.18; give centre >= 0, 0 <= belief < 1"),
        ({"belief": 1.0}, "got centre=0.01, belief=1.0"),
        ({"belief": -0.1}, "belief=-0.1"),
        ({"centre": float("nan")}, "centre=nan"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], message: str, renderer: MeshRenderer) -> None:
    with pytest.raises(VidsslError, match=message):
        ViewBatches(renderer, **given)
