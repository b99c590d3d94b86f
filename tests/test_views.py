"""Views: linear algebra against torchvision, determinism by key, exact identities."""

import json
from dataclasses import asdict, replace

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vidssl.core import mix
from vidssl.errors import VidsslError
from vidssl.views import Views, blurring, boxes, colour, plain, resampling

ALL = Views(
    (20, 24), crop=(0.2, 1), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2, blur=0.5
)


def clips(b: int = 6, t: int = 3, c: int = 3, h: int = 30, w: int = 40) -> Tensor:
    return torch.randint(0, 256, (b, t, c, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(b))


def keys(b: int) -> Tensor:
    return mix(0, 0, torch.arange(b))


def scene(h: int = 30, w: int = 40) -> Tensor:
    """A smooth coloured clip [1,1,3,H,W] away from black and white, so that no clamp acts."""
    y, x = torch.meshgrid(torch.linspace(0, 3, h), torch.linspace(0, 4, w), indexing="ij")
    waves = torch.stack([x.sin(), (x + y).cos(), (y - 0.5 * x).sin()])
    return (128 + 35 * waves).to(torch.uint8)[None, None]


def test_shape_type_and_range() -> None:
    view = ALL(clips(), keys(6))
    assert view.shape == (6, 3, 3, 20, 24)
    assert view.dtype == torch.float32
    assert view.is_contiguous()
    assert view.min() >= 0
    assert view.max() <= 1


def test_a_sample_depends_on_its_key_alone() -> None:
    batch = clips(8)
    whole = ALL(batch, keys(8))
    for rows in ([3], [5, 1], [7, 6, 0]):
        part = ALL(batch[rows], keys(8)[rows])
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-6)
    assert torch.equal(ALL(batch, keys(8)), whole)
    assert not torch.equal(ALL(batch, keys(8), stream=1), whole)


def test_aligned_views_share_crop_and_flip_and_nothing_else() -> None:
    moved = Views((20, 24), crop=(0.2, 1), flip=0.5, aligned=True)
    batch = clips(8)
    assert torch.equal(moved(batch, keys(8), stream=1), moved(batch, keys(8)))
    assert torch.equal(moved(batch, keys(8)), replace(moved, aligned=False)(batch, keys(8)))
    colours = replace(ALL, aligned=True)
    first, second = colours(batch, keys(8)), colours(batch, keys(8), stream=1)
    assert not torch.equal(first, second)


def test_frames_agree_and_samples_differ() -> None:
    still = clips(1, 1).expand(12, 4, -1, -1, -1)
    view = ALL(still, keys(12))
    for t in range(1, 4):
        torch.testing.assert_close(view[:, t], view[:, 0], rtol=0, atol=1e-6)
    distance = (view[:, None, 0] - view[None, :, 0]).abs().mean((2, 3, 4)) + torch.eye(12)
    assert distance.min() > 1e-3


def test_off_is_division_by_255_exactly() -> None:
    batch = clips()
    expected = batch.float() / 255
    assert torch.equal(Views.none((30, 40))(batch, keys(6)), expected)
    assert torch.equal(plain(batch), expected)
    # The resampling with nothing to do is exact too, whole-frame crop included.
    kept = Views((30, 40), crop=(1, 1), flip=1e-12, blur=1e-12)
    assert torch.equal(kept(batch, keys(6)), expected)
    unchanged = Views((30, 40), brightness=0.5, hue=0.5, jitter=0)
    torch.testing.assert_close(unchanged(batch, keys(6)), expected, rtol=0, atol=1e-6)


def test_memory_order_does_not_matter() -> None:
    batch = clips()
    permuted = batch.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)  # as decoders give it: HWC memory
    assert torch.equal(ALL(permuted, keys(6)), ALL(batch, keys(6)))
    assert plain(permuted).is_contiguous()


def test_flip_is_exact() -> None:
    batch = clips()
    assert torch.equal(Views((30, 40), flip=1)(batch, keys(6)), batch.flip(-1).float() / 255)
    small = clips(200, 1, 1, 4, 5)
    flipped = (Views((4, 5), flip=0.5)(small, keys(200)) == small.flip(-1) / 255).flatten(1).all(1)
    assert 70 < flipped.sum() < 130  # binomial(200, 1/2): 100 ± 7


@pytest.mark.parametrize("box", [(0, 0, 30, 40), (3, 5, 20, 24), (7, 0, 11, 40), (2, 30, 28, 9), (4, 4, 1, 3)])
@pytest.mark.parametrize("size", [(20, 24), (64, 64), (5, 50)])
def test_crop_equals_torchvision(box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    image = clips(1, 1)[0, 0].float()
    top, left, height, width = box
    expected = tv.resized_crop(image, top, left, height, width, list(size), antialias=True)
    one = torch.ones(1)
    rows, columns = resampling(one * top, one * height, 30, size[0]), resampling(one * left, one * width, 40, size[1])
    got = rows[0] @ image @ columns[0].T
    torch.testing.assert_close(got, expected, rtol=0, atol=255 * 1e-5)


def test_boxes_hold_area_and_ratio() -> None:
    draws = torch.rand(20_000, 14, generator=torch.Generator().manual_seed(0)).unbind(1)
    top, left, height, width = boxes(draws, 240, 320, (0.3, 0.9), (3 / 4, 4 / 3))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 240).all()
    assert (left + width <= 320).all()
    area, ratio = height * width / (240 * 320), width / height
    assert area.min() > 0.29
    assert area.max() < 0.91
    assert abs(area.mean() - 0.6) < 0.01  # uniform: no draw was rejected for not fitting
    # Within [3/4, 4/3] as far as an area of 0.9 of a 4:3 frame allows (at least 0.9 · 4/3 = 1.2).
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    assert (top == 0).any()
    assert (left + width == 320).any()
    assert (height.round() == height).all()


@pytest.mark.parametrize("frame", [(240, 320), (97, 31), (1, 1)])
def test_whole_area_is_the_whole_frame(frame: tuple[int, int]) -> None:
    draws = torch.rand(500, 14, generator=torch.Generator().manual_seed(0)).unbind(1)
    top, left, height, width = boxes(draws, *frame, (1, 1), (3 / 4, 4 / 3))
    assert (height == frame[0]).all()
    assert (width == frame[1]).all()
    assert not top.any()
    assert not left.any()


def colour_only(**settings: float) -> tuple[Tensor, Tensor, Tensor]:
    """A view of 64 copies of the scene with jitter always on, the plain image [3,H,W], and the 64 views."""
    view = Views((30, 40), jitter=1, **settings)
    return plain(scene())[0, 0], view(scene().expand(64, -1, -1, -1, -1), keys(64))[:, 0], keys(64)


def best_factor(image: Tensor, view: Tensor, adjust, factors: Tensor) -> float:
    """The least mean distance between the view and torchvision's with any of the factors."""
    return min((adjust(image, float(factor)) - view).abs().mean().item() for factor in factors)


@pytest.mark.parametrize(
    ("name", "adjust"),
    [
        ("brightness", tv.adjust_brightness),
        ("contrast", tv.adjust_contrast),
        ("saturation", tv.adjust_saturation),
    ],
)
def test_colour_equals_torchvision(name: str, adjust) -> None:
    image, views, _ = colour_only(**{name: 0.3})
    for view in views[:8]:  # torchvision's factor is not known, but some factor must give this view
        assert best_factor(image, view, adjust, torch.linspace(0.7, 1.3, 301)) < 1e-3
    spread = (views - image).abs().mean((1, 2, 3))
    assert spread.max() > 3 * spread.min()


def test_colour_matrix_identities() -> None:
    one, none, turns = torch.ones(50), torch.zeros(50), torch.linspace(-0.5, 0.5, 50)
    luma, grey = torch.tensor([0.299, 0.587, 0.114]), torch.ones(3)
    torch.testing.assert_close(colour(none, one), torch.eye(3).expand(50, 3, 3))
    torch.testing.assert_close(colour(turns, 3 * turns) @ grey, torch.ones(50, 3))  # greys stay
    torch.testing.assert_close(grey @ colour(turns, one), torch.ones(50, 3))  # a turn keeps R + G + B
    torch.testing.assert_close(luma @ colour(none, 3 * turns), luma.expand(50, 3))  # saturation keeps luma
    torch.testing.assert_close(colour(turns, one) @ colour(-turns, one), torch.eye(3).expand(50, 3, 3))
    torch.testing.assert_close(colour(none, none), luma.expand(50, 3, 3))
    # A third of a turn: red (column 0) becomes green, green blue, blue red.
    third = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(colour(one / 3, one), third.expand(50, 3, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("turns", "distance"), [(-1 / 3, 1e-6), (0.5, 0.3), (0.2, 0.5), (0.1, 0.8), (-0.05, 0.9)])
def test_hue_goes_torchvisions_way(turns: float, distance: float) -> None:
    # Not the same formula: HSV's shift moves one channel at a time round a hexagon, this one all three round a circle.
    # Equal at thirds of a turn; in between the distance is stated as a share of the change torchvision makes.
    image = plain(scene())[0, 0]
    expected = tv.adjust_hue(image, turns)
    got = torch.einsum("ij,jhw->ihw", colour(torch.tensor([turns]), torch.ones(1))[0], image)
    assert (got - expected).abs().mean() < distance * (expected - image).abs().mean()


def test_grey_has_equal_channels() -> None:
    _, views, _ = colour_only(grey=1, hue=0.5, saturation=0.5)
    torch.testing.assert_close(views[:, 0], views[:, 1])
    torch.testing.assert_close(views[:, 0], views[:, 2])


def test_jitter_is_the_share_that_changes() -> None:
    batch = scene().expand(400, -1, -1, -1, -1)
    changed = (Views((30, 40), brightness=0.5, jitter=0.25)(batch, keys(400)) - plain(batch)).abs().amax((1, 2, 3, 4))
    assert 65 < (changed > 1e-4).sum() < 135  # binomial(400, 1/4): 100 ± 9


def test_blur_equals_torchvision_inside() -> None:
    image = clips(1, 1)[0, 0].float()
    sigma = torch.tensor([0.0, 1.5])
    rows, columns = blurring(sigma, 30), blurring(sigma, 40)
    got = rows[:, None] @ image @ columns[:, None].mT
    assert torch.equal(got[0], image)
    expected = tv.gaussian_blur(image, [19, 19], [1.5, 1.5])
    torch.testing.assert_close(got[1, :, 9:-9, 9:-9], expected[:, 9:-9, 9:-9], rtol=0, atol=0.01)
    torch.testing.assert_close(rows.sum(2), torch.ones(2, 30))


class Count(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_no_loop_over_samples_or_frames() -> None:
    counts = []
    for b, t in ((2, 1), (40, 5)):
        with Count() as count:
            ALL(clips(b, t), keys(b))
        counts.append(count.count)
    assert counts[0] == counts[1]


def test_autocast_leaves_the_accuracy_alone() -> None:
    expected = ALL(clips(), keys(6))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ALL(clips(), keys(6)), expected)


def test_json_and_back() -> None:
    for views in (ALL, replace(ALL, aligned=True)):
        assert Views(**json.loads(json.dumps(asdict(views)))) == views


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 4)}, "size must be two numbers"),
        ({"size": (4.5, 4)}, "whole pixels"),
        ({"size": (4,)}, "size must be two numbers"),
        ({"crop": (0.5, 0.2)}, r"crop must be \(least, greatest\)"),
        ({"crop": (0, 1)}, "crop must be"),
        ({"flip": 1.5}, r"flip must be a number in \[0, 1\]"),
        ({"hue": 0.7}, "hue must be"),
        ({"brightness": float("nan")}, "brightness must be"),
        ({"aligned": 0.5}, "aligned must be True or False"),
    ],
)
def test_bad_settings(change: dict, message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        Views(**{"size": (8, 8), **change})


@pytest.mark.parametrize(
    ("batch", "key", "message"),
    [
        (torch.zeros(2, 1, 3, 4, 4), keys(2), r"uint8 \[B,T,C,H,W\], got float32 \(2, 1, 3, 4, 4\)"),
        (clips(2, 1)[0], keys(2), r"uint8 \[B,T,C,H,W\], got uint8"),
        (clips(2, 1), keys(3), r"keys: expected int64 \[2\].*\(3,\)"),
        (clips(2, 1), keys(2).float(), r"keys: expected int64 \[2\]"),
        (clips(2, 1, 1), keys(2), "need 3 channels, got 1"),
    ],
)
def test_bad_clips(batch: Tensor, key: Tensor, message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        ALL(batch, key)
