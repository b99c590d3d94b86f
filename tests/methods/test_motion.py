"""Flow as a target: right, repeatable, in the right units and at the right times."""

from typing import Any

import cv2
import pytest
import torch
from torch import Tensor, nn

from vidssl.core import sample_key
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.methods import flow as flow_module
from vidssl.methods.flow import by_time, cells, dis_flow
from vidssl.methods.maps import map_shape, maps_and_features
from vidssl.methods.motion import Motion, compare
from vidssl.views import Views

SIZE = (32, 32)


def drifting(size: int, steps: list[tuple[int, int]], clips: int = 1) -> Tensor:
    """Smooth noise `[B,T,3,size,size]` in [0, 1]; frame t is moved by steps[t] = pixels right and down."""
    torch.manual_seed(0)
    coarse = torch.rand(clips, 1, size // 8 + 6, size // 8 + 6)
    still = nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 1)
    frames = [still[..., 20 - y : 20 - y + size, 20 - x : 20 - x + size] for x, y in steps]
    return torch.stack(frames, dim=1).expand(-1, -1, 3, -1, -1)


def test_flow_of_a_drift_is_the_drift() -> None:
    flow = dis_flow(drifting(48, [(0, 0), (2, -1), (2, 2)]))
    assert flow.shape == (1, 2, 2, 48, 48)
    inside = flow[0, :, :, 8:-8, 8:-8].mean((-2, -1))
    torch.testing.assert_close(inside, torch.tensor([[2.0, -1.0], [0.0, 3.0]]), rtol=0, atol=0.15)


def test_flow_of_large_frames_is_in_their_pixels() -> None:
    """At 128 pixels the search sees frames of 64, in which the drift is half as far."""
    flow = dis_flow(drifting(128, [(0, 0), (4, 2)]))
    assert flow.shape == (1, 1, 2, 64, 64)
    inside = flow[0, 0, :, 12:-12, 12:-12].mean((-2, -1))
    torch.testing.assert_close(inside, torch.tensor([4.0, 2.0]), rtol=0, atol=0.3)


def test_flow_is_a_function_of_the_pair_alone() -> None:
    """Not of the other clips, of earlier searches, of the floating type, or of OpenCV's threads, whose number stays."""
    clips = drifting(64, [(0, 0), (1, 2), (3, 1)], clips=3)
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        flow = dis_flow(clips)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(threads)
    assert torch.equal(flow, dis_flow(clips))
    assert torch.equal(flow, dis_flow(clips.double()))
    assert torch.equal(flow[1:2, 1:], dis_flow(clips[1:2, 1:]))


@pytest.mark.parametrize(("allowed", "taken"), [(1, 1), (3, 3), (64, 12)])
def test_flow_is_the_same_on_any_number_of_threads(allowed: int, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = drifting(48, [(0, 0), (1, 2), (3, 1), (2, 2), (1, 1)], clips=3)  # twelve pairs of frames
    flow = dis_flow(clips)
    opened = []
    pool = flow_module.ThreadPoolExecutor
    monkeypatch.setattr(flow_module, "ThreadPoolExecutor", lambda workers: opened.append(workers) or pool(workers))
    monkeypatch.setattr(torch, "get_num_threads", lambda: allowed)  # what `compare --threads` sets
    assert torch.equal(dis_flow(clips), flow)
    assert opened == [taken]


def test_mixed_precision_leaves_the_flow_alone() -> None:
    clips = drifting(48, [(0, 0), (1, 2)])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = dis_flow(clips)
    assert torch.equal(mixed, dis_flow(clips))


def test_cells_keep_the_length_of_what_cancels() -> None:
    """Left half of a cell moves 3 right and 4 down, right half the opposite: mean (0, 0), mean length 5."""
    flow = torch.zeros(1, 1, 2, 4, 8)
    flow[..., :2] = torch.tensor([3.0, 4.0])[:, None, None]
    flow[..., 2:4] = -torch.tensor([3.0, 4.0])[:, None, None]
    found = cells(flow, (1, 2))[0, 0, :, 0]
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0]]))


def test_flows_belong_to_the_times_of_the_encoder() -> None:
    """Flows into frames 1 … 5 are 1 … 5. Six times: one each, none at time 0. Three: 1, (2 + 3) / 2, (4 + 5) / 2."""
    flow = torch.arange(1.0, 6)[None, :, None]
    six, moved = by_time(flow, 6)
    assert six[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert moved.tolist() == [False, True, True, True, True, True]
    three, moved = by_time(flow, 3)
    assert three[0, :, 0].tolist() == [1, 2.5, 4.5]
    assert moved.tolist() == [True] * 3
    one, _ = by_time(flow, 1)
    assert one[0, :, 0].tolist() == [3]


def batch(clips: Tensor) -> dict[str, Tensor]:
    return {
        "clips": (255 * clips).round().byte(),
        "key": torch.tensor([sample_key(0, 0, i) for i in range(len(clips))]),
    }


def method(views: Views | None = None, **options: Any) -> Motion:
    torch.manual_seed(0)
    return Motion(build_encoder("small-motion", SIZE), views or Views.none(SIZE), **options)


def test_the_flow_is_that_of_the_augmented_frames() -> None:
    """A drift of one pixel to the right is one to the left in a flipped view."""
    data = batch(drifting(32, [(0, 0), (1, 0), (2, 0)]))
    plain, flipped = (Views(SIZE, flip=flip)(data["clips"], data["key"]) for flip in (0.0, 1.0))
    right, left = (dis_flow(views)[:, :, 0, 8:-8, 8:-8].mean() for views in (plain, flipped))
    assert abs(right.item() - 1) < 0.2
    assert abs(left.item() + 1) < 0.2


def test_what_a_right_guess_and_a_guess_of_no_motion_score() -> None:
    flow = dis_flow(drifting(32, [(t, 0) for t in range(5)]))
    truth, _ = by_time(cells(flow, (4, 4)), 5)
    ahead = torch.cat([truth[:, 1:], torch.zeros(1, 1, 3, 4, 4)], dim=1)  # nothing is asked beyond the last frame
    loss, metrics = compare(torch.stack([truth, ahead], dim=2), flow, 5)
    assert loss.item() == 0
    assert metrics["end_point_error"].item() == 0
    assert metrics["explained"].item() == 1
    loss, metrics = compare(torch.zeros(1, 5, 2, 3, 4, 4), flow, 5)
    assert 0.8 < metrics["end_point_error_of_zero"].item() < 1.2
    assert metrics["end_point_error"] == metrics["end_point_error_of_zero"]
    assert metrics["explained"].item() == 0
    # Within one root mean square, Huber's loss is half the square: half of 1; flows beyond it count for less.
    assert 0.4 < loss.item() <= 0.5


def test_times_that_nothing_flows_into_are_not_asked_about() -> None:
    """Whatever is predicted for the present flow of frame 0, and for what is behind the last frame."""
    flow = dis_flow(drifting(32, [(0, 0), (1, 0), (1, 1)]))
    guess = torch.randn(1, 3, 2, 3, 2, 2)
    other = guess.clone()
    other[:, 0, 0] = other[:, 2, 1] = 9.0
    assert torch.equal(compare(guess, flow, 3)[0], compare(other, flow, 3)[0])
    other[:, 0, 1] = 9.0  # but frame 0 is asked for what comes next
    assert not torch.equal(compare(guess, flow, 3)[0], compare(other, flow, 3)[0])


def test_only_the_first_times_need_predict() -> None:
    """Two of five times, each asked for its flow and the two ahead: right ones cost nothing, and every one counts."""
    flow = dis_flow(drifting(32, [(t, t * t // 2) for t in range(5)]))
    truth, _ = by_time(cells(flow, (2, 2)), 5)
    guess = torch.stack([truth[:, k : k + 2] for k in range(3)], dim=2)
    loss, metrics = compare(guess, flow, 5)
    assert loss.item() == 0
    assert metrics["explained"].item() == 1
    for time, ahead in ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
        wrong = guess.clone()
        wrong[:, time, ahead] += 1
        assert compare(wrong, flow, 5)[0] > 0


def test_frames_without_flows_ahead_are_not_encoded() -> None:
    """Of 6 frames and 2 flows ahead the last 2 are targets only; their flow still is."""
    motion = method(ahead=2)
    seen: list[int] = []
    maps = motion.encoder.maps
    motion.encoder.maps = lambda clips: seen.append(clips.shape[1]) or maps(clips)  # type: ignore[method-assign]
    data = batch(drifting(32, [(t, 0) for t in range(6)], clips=2))
    loss, _ = motion.loss(data)
    assert seen == [4]
    data["clips"][:, 5] = data["clips"][:, 0]
    assert motion.loss(data)[0] != loss


def test_a_still_clip_has_a_finite_loss() -> None:
    motion = method(dense=1.0)
    loss, metrics = motion.loss(batch(drifting(32, [(0, 0)] * 4, clips=2)))
    assert torch.isfinite(loss)
    assert metrics["end_point_error_of_zero"].item() < 1e-3


@pytest.mark.parametrize("encoder", ["small", "r3d-18"])
def test_encoders_of_colours_and_of_clips(encoder: str) -> None:
    """One that sees no motion predicts what may move; one with T/8 times, the mean flow of each."""
    motion = Motion(build_encoder(encoder, SIZE), Motion.default_views(SIZE), dense=1.0, ahead=int(encoder == "small"))
    loss, metrics = motion.loss(batch(drifting(32, [(t, 0) for t in range(8)], clips=2)))
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss.detach(), metrics["term_feature"] + metrics["term_map"])


def test_maps_and_features_are_those_of_the_encoder() -> None:
    clips = torch.rand(2, 3, 3, *SIZE)
    for name in ("small-motion", "control", "vit-video"):
        encoder = build_encoder(name, SIZE)
        maps, features = maps_and_features(encoder, clips)
        torch.testing.assert_close(features, encoder(clips))
        assert map_shape(None, encoder, 1, SIZE)[1:] == tuple(maps.shape[2:])


def test_refusals() -> None:
    with pytest.raises(VidsslError, match="too short to predict flow 2 ahead: raise --frames"):
        method(ahead=2).loss(batch(drifting(32, [(0, 0), (1, 0)])))
    with pytest.raises(VidsslError, match="one frame shows no motion"):
        method(ahead=0).loss(batch(drifting(32, [(0, 0)])))
    with pytest.raises(VidsslError, match=r"grids: got \(9,\); .* frames of \(32, 32\) pixels have 1 to 8 cells"):
        method(grids=(9,))
    with pytest.raises(VidsslError, match="grids: got 4; write"):
        method(grids=4)
    with pytest.raises(VidsslError, match="needs a grid or a weight above 0"):
        method(grids=(), dense=0.0)
    with pytest.raises(VidsslError, match="ahead: got -1"):
        method(ahead=-1)


def test_mixed_precision_compares_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, metrics = method().loss(batch(drifting(32, [(0, 0), (1, 0), (2, 0)])))
    assert loss.dtype == torch.float32
    assert metrics["end_point_error_of_zero"].dtype == torch.float32
