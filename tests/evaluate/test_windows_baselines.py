"""Which frames are seen, and what the baselines make of them."""

import numpy as np
import pytest
import torch
from extractors import random_extractor

from vidssl.errors import VidsslError
from vidssl.evaluate.baselines import frame_differences, pixels, untrained
from vidssl.evaluate.windows import mean_and_std, spread_windows, training_stride


def test_windows_span_the_video() -> None:
    assert spread_windows(12, frames=3, stride=2, count=3).tolist() == [[0, 2, 4], [4, 6, 8], [7, 9, 11]]
    assert spread_windows(12, frames=3, stride=2, count=1).tolist() == [[3, 5, 7]]


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [[0]]), (2, [[0], [1]]), (3, [[0, 2]]), (5, [[0, 2, 4]]), (6, [[0, 2, 4], [1, 3, 5]])]
)
def test_short_videos_give_what_they_have(n: int, expected: list[list[int]]) -> None:
    assert spread_windows(n, frames=3, stride=2, count=4).tolist() == expected


def test_windows_refuse_nothing() -> None:
    with pytest.raises(VidsslError, match="at least 1"):
        spread_windows(0, 3, 2, 1)


def test_stride_follows_the_rate_where_it_is_known() -> None:
    times = np.arange(10) / 30
    assert training_stride({"clip": {"stride": 2}, "fps": None}, times) == 2
    assert training_stride({"clip": {"stride": 2}, "fps": 10.0}, times) == 3
    assert training_stride({"clip": {"stride": 2}, "fps": 60.0}, times) == 1
    assert training_stride({"clip": {"stride": 2}, "fps": 10.0}, times[:1]) == 2


def test_mean_and_std_over_all_frames() -> None:
    features = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[1.0, 5.0], [3.0, 5.0]]])  # [W,T,D]
    assert mean_and_std(features).tolist() == [2, 5, 1, 0]


def test_pixels_are_the_frames() -> None:
    frames = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    assert pixels(frames).shape == (2, 3, 3 * 64 * 64)
    assert torch.equal(pixels(frames)[1, 2].view(3, 64, 64), frames[1, 2].permute(2, 0, 1).float() / 255)
    assert pixels(torch.full((1, 2, 128, 96, 3), 51, dtype=torch.uint8)).unique().tolist() == pytest.approx([0.2])
    assert pixels(frames[:, :, :32, :48]).shape == (2, 3, 3 * 32 * 48)


def test_differences_are_those_of_the_moving_cell() -> None:
    frames = torch.zeros(1, 3, 64, 64, 3, dtype=torch.uint8)
    frames[0, 1, :8, 8:16, 0] = 255  # one of the 8x8 cells flashes red in the middle frame
    found = frame_differences(frames).view(1, 2, 3, 8, 8)
    expected = torch.zeros(1, 2, 3, 8, 8)
    expected[:, :, 0, 0, 1] = 1
    assert torch.equal(found, expected)
    assert frame_differences(frames[:, :1]).shape == (1, 1, 192)
    assert not frame_differences(frames[:, :1]).any()


def test_baselines_refuse_other_arrays() -> None:
    with pytest.raises(VidsslError, match="uint8"):
        pixels(torch.zeros(1, 2, 64, 64, 3))


def test_untrained_has_the_architecture_and_its_seed_alone() -> None:
    context = {"name": "gru", "dim": 8}
    shape = {"image_size": [32, 32], "fps": None, "output": "encoder"}
    config = {"encoder": {"name": "small"}, "context": context, **shape}
    run = random_extractor("small", (32, 32), seed=7)
    run.config = config
    frames = torch.randint(0, 256, (1, 2, 32, 32, 3), dtype=torch.uint8)
    torch.manual_seed(1)
    first = untrained(run, 0)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again, other = untrained(run, 0), untrained(run, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first(frames), again(frames))
    assert not torch.equal(first(frames), other(frames))
    assert first.dim == run.dim
    run.config = {}
    with pytest.raises(VidsslError, match="run config"):
        untrained(run, 0)
