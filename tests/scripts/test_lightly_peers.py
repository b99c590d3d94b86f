"""The peers built from the lightly library; what needs it is skipped where it is absent."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import Tensor

from vidssl.core.random import mix
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.scripts import lightly_peers
from vidssl.views import Views

PEERS = ["LightlySimCLR", "LightlyBYOL", "LightlyVICReg"]
absent = importlib.util.find_spec("lightly") is None
needs_lightly = pytest.mark.skipif(absent, reason="the lightly library is not installed: uv pip install lightly")
SIZE = (32, 32)


def batch(clips: int = 6, frames: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "clips": torch.randint(0, 256, (clips, frames, 3, *SIZE), dtype=torch.uint8, generator=generator),
        "key": mix(7, torch.arange(clips)),
        "video": torch.arange(clips),
        "step": torch.tensor(0),
        "progress": torch.tensor(0.0),
    }


def build(name: str) -> lightly_peers._Peer:
    torch.manual_seed(0)
    peer: lightly_peers._Peer = getattr(lightly_peers, name)(build_encoder("small-motion", SIZE), Views.none(SIZE))
    return peer


@pytest.mark.skipif(not absent, reason="the lightly library is installed")
@pytest.mark.parametrize("name", PEERS)
def test_without_lightly_the_way_to_get_it_is_told(name: str) -> None:
    with pytest.raises(VidsslError, match="uv pip install lightly"):
        build(name)


def test_all_frames_of_a_window_take_the_same_draws_and_the_generators_are_left_alone() -> None:
    def noisy(image: object) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).movedim(-1, 0).float()
        return pixels + torch.rand(()) + 10 * float(np.random.random_sample())  # noqa: NPY002

    windows = np.zeros((2, 3, 4, 4, 3), np.uint8)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(()), np.random.random_sample()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    views = lightly_peers.transformed(noisy, windows, [11, -12])
    assert (torch.rand(()), np.random.random_sample()) == expected  # noqa: NPY002
    assert views.shape == (2, 3, 3, 4, 4)
    assert (views[0] == views[0, 0, 0, 0, 0]).all()
    assert (views[1] == views[1, 0, 0, 0, 0]).all()
    assert views[0, 0, 0, 0, 0] != views[1, 0, 0, 0, 0]
    again = lightly_peers.transformed(noisy, windows[1:], [-12])
    assert torch.equal(again[0], views[1])  # a clip's draws are its own


@needs_lightly
@pytest.mark.parametrize("name", PEERS)
def test_contract(name: str) -> None:
    """Finite, repeatable, every trainable parameter gets a gradient, and the loss on a fixed batch falls."""
    peer, data = build(name), batch()
    first, metrics = peer.loss(data)
    again, _ = peer.loss(data)
    torch.testing.assert_close(first, again)
    assert all(torch.isfinite(value) for value in metrics.values())
    first.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in peer.parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW([p for p in peer.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        loss, _ = peer.loss(data)
        loss.backward()
        optimizer.step()
        if hasattr(peer, "after_step"):
            peer.after_step()
    assert loss.detach() < first.detach()


@needs_lightly
def test_views_are_lightlys_and_alike_on_one_thread_or_two() -> None:
    peer, data = build("LightlySimCLR"), batch()
    one = peer.two_views(data)
    assert [view.shape for view in one] == [(6, 2, 3, *SIZE)] * 2
    assert all(0 <= float(view.min()) <= float(view.max()) <= 1 for view in one)
    assert not torch.equal(one[0], one[1])
    torch.set_num_threads(2)
    try:
        two = peer.two_views(data)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@needs_lightly
def test_the_target_follows_by_lightlys_schedule() -> None:
    peer = build("LightlyBYOL")
    assert isinstance(peer, lightly_peers.LightlyBYOL)
    before = [p.clone() for p in peer.encoder_momentum.parameters()]
    with torch.no_grad():
        for parameter in peer.encoder.parameters():
            parameter.add_(1.0)
    _, metrics = peer.loss(batch() | {"progress": torch.tensor(0.5)})
    assert metrics["momentum"] == pytest.approx(0.998, abs=1e-6)  # half way from 0.996 to 1 by half a cosine
    peer.after_step()
    for old, new in zip(before, peer.encoder_momentum.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.002, atol=1e-5, rtol=0)


@needs_lightly
def test_frames_that_are_not_square_are_refused() -> None:
    with pytest.raises(VidsslError, match="square"):
        lightly_peers.LightlySimCLR(build_encoder("small-motion", (32, 48)), Views.none((32, 48)))
