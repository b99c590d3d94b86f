"""Windows of clips: where they lie, and what they depend on."""

import pytest
import torch
from torch import Tensor

from vidssl.core import sample_key
from vidssl.errors import VidsslError
from vidssl.methods.clip_views import ClipViews
from vidssl.views import Views


def numbered(clips: int, frames: int) -> Tensor:
    """Frame t of clip b is filled with the number 20 b + t."""
    number = 20 * torch.arange(clips)[:, None] + torch.arange(frames)
    return number.to(torch.uint8)[:, :, None, None, None].expand(clips, frames, 3, 4, 4)


def keys(clips: int) -> Tensor:
    return torch.tensor([sample_key(0, 0, i) for i in range(clips)])


def places(clip_views: ClipViews, clips: int = 5, frames: int = 10) -> Tensor:
    """Frame numbers [V, B, L] of the windows."""
    windows = torch.stack(clip_views.windows(numbered(clips, frames), keys(clips)))
    return windows[..., 0, 0, 0].long() - 20 * torch.arange(clips)[:, None]


def test_windows_are_successive_frames_inside_the_clip() -> None:
    found = places(ClipViews(Views.none((4, 4)), 3, frames=4), clips=12)
    assert found.shape == (3, 12, 4)
    assert bool((found.diff(dim=-1) == 1).all())
    assert int(found.min()) >= 0
    assert int(found.max()) <= 9
    assert len(set(found[:, :, 0].flatten().tolist())) >= 5  # of seven possible starts


def test_distance_is_kept_and_fits() -> None:
    found = places(ClipViews(Views.none((4, 4)), 2, frames=3, distance=6), clips=12)
    assert bool((found[1] - found[0] == 6).all())
    assert set(found[0, :, 0].tolist()) == {0, 1}


def test_half_the_clip_by_default_and_one_frame_of_an_image() -> None:
    assert places(ClipViews(Views.none((4, 4)))).shape == (2, 5, 5)
    assert places(ClipViews(Views.none((4, 4))), frames=1).tolist() == [[[0]] * 5] * 2


def test_a_clips_windows_depend_on_its_key_alone() -> None:
    clip_views, clips = ClipViews(Views((4, 4), crop=(0.3, 1.0), flip=0.5)), numbered(6, 10)
    whole = clip_views(clips, keys(6))
    part = clip_views(clips[3:5], keys(6)[3:5])
    for view in range(2):
        assert torch.equal(whole[view][3:5], part[view])
    assert not torch.equal(whole[0], whole[1])


def test_refusals() -> None:
    with pytest.raises(VidsslError, match="clips of 10 frames are too short for 2 views of 6 frames 5 frames apart"):
        places(ClipViews(Views.none((4, 4)), 2, frames=6, distance=5))
    with pytest.raises(VidsslError, match="raise --frames to 12 or more"):
        places(ClipViews(Views.none((4, 4)), 2, frames=12))
    with pytest.raises(VidsslError, match="got 0 views"):
        ClipViews(Views.none((4, 4)), 0)
