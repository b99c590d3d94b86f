"""Labels carried through a video: on features that say where they belong, and by hand."""

import pytest
import torch
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.evaluate.tracking import cell_labels, jaccard, masks_of, propagate_labels


def moving(frames: int = 6) -> tuple[Tensor, Tensor]:
    """Every cell its own random feature, all moved by a cell a frame: maps [T,D,8,8], labels of frame 0 [2,8,8]."""
    still = torch.randn(32, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = torch.stack([still.roll(t, dims=-1) for t in range(frames)])
    mask = torch.zeros(8, 8, dtype=torch.long)
    mask[2:5, 1:3] = 1
    return maps, cell_labels(mask, (8, 8), 2)


@pytest.mark.parametrize("context", [1, 3])
def test_labels_follow_features(context: int) -> None:
    maps, first = moving()
    labels = propagate_labels(maps, first, top=1, radius=1, context=context)
    for t in range(6):
        expected = first.roll(t, dims=-1)
        inside = labels[t][:, :, t:]  # what left on the right comes in on the left, farther than the radius
        assert torch.equal(inside, expected[:, :, t:])


def test_the_radius_holds() -> None:
    """The same video moved by two cells a frame: found with a radius of 2, not with 1."""
    maps, first = moving(7)
    maps = maps[::2]
    found = propagate_labels(maps, first, top=1, radius=2, context=1)
    assert torch.equal(found[2][:, :, 4:], first.roll(4, dims=-1)[:, :, 4:])
    lost = propagate_labels(maps, first, top=1, radius=1, context=1)
    assert not torch.equal(lost[2][:, :, 4:], first.roll(4, dims=-1)[:, :, 4:])


def test_top_two_by_hand() -> None:
    """Two cells a frame, cosines 1 and 0 at temperature 0.5: weights 1 / (1 + e^-2) and the rest."""
    maps = torch.eye(2).view(1, 2, 1, 2).repeat(2, 1, 1, 1)
    first = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    labels = propagate_labels(maps, first, top=2, radius=5, context=1, temperature=0.5)
    share = 0.8807971
    torch.testing.assert_close(labels[1], torch.tensor([[[share, 1 - share]], [[1 - share, share]]]))


def test_frame_0_is_remembered() -> None:
    """An object that hides for longer than the context comes back under its label."""
    maps, first = moving(1)
    hidden = torch.randn(3, 32, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = propagate_labels(torch.cat([maps, hidden, maps]), first, top=1, radius=0, context=2)
    assert torch.equal(labels[-1], first)


def test_masks_and_back() -> None:
    mask = torch.zeros(16, 16, dtype=torch.long)
    mask[4:12, 4:12] = 2
    labels = cell_labels(mask, (4, 4), 3)
    assert labels[:, 1, 1].tolist() == [0, 0, 1]
    assert cell_labels(mask, (2, 2), 3)[:, 0, 0].tolist() == [0.75, 0, 0.25]
    back = masks_of(labels[None], (16, 16))[0]
    assert back.shape == (16, 16)
    assert (back == mask).float().mean() > 0.9


def test_jaccard_by_hand() -> None:
    """Label 1: 2 of 4 pixels agree in frame 0, all in frame 1; label 2 is in frame 1 alone, and half found."""
    true = torch.tensor([[[1, 1, 1, 0]], [[1, 1, 2, 2]]])
    predicted = torch.tensor([[[1, 1, 0, 1]], [[1, 1, 2, 0]]])
    assert jaccard(predicted, true).tolist() == pytest.approx([(2 / 4 + 1) / 2, (1 + 1 / 2) / 2])


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"maps \[T,D,h,w\] and labels \[O,h,w\] of the same cells"):
        propagate_labels(torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 8))
    with pytest.raises(VidsslError, match="top and context are 1 or more"):
        propagate_labels(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4), top=0)
    with pytest.raises(VidsslError, match="give equal shapes"):
        jaccard(torch.zeros(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 3, dtype=torch.long))
