"""Which frames the questions about time show, and that only motion answers them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidssl.core import sample_key
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.methods.order import Order
from vidssl.views import Views

SIZE = (32, 32)


class FrameNumbers(nn.Module):
    """An encoder whose feature is the mean of a frame's pixels, times 255."""

    dim = 1

    def forward(self, clips: Tensor) -> Tensor:
        return 255 * clips.mean((2, 3, 4))[..., None]


def keys(clips: int) -> Tensor:
    return torch.tensor([sample_key(0, 0, i) for i in range(clips)])


def numbered(clips: int, frames: int) -> dict[str, Tensor]:
    """A batch in which frame t of every clip is filled with t."""
    number = torch.arange(frames, dtype=torch.uint8)[None, :, None, None, None]
    return {"clips": number.expand(clips, frames, 3, *SIZE), "key": keys(clips)}


def shown(question: str, clips: int = 24, frames: int = 10, **options: Any) -> tuple[list[int], list[list[float]]]:
    """Labels, and what the encoder made of the clips as they were tampered with."""
    method = Order(FrameNumbers(), Views.none(SIZE), task=question, **options)  # type: ignore[arg-type]
    batch = numbered(clips, frames)
    _, label, z = getattr(method, f"_{question}")(*method.prepare(batch))
    return label.tolist(), z.squeeze(-1).round(decimals=3).tolist()


def test_segments_in_the_order_of_the_label() -> None:
    """Ten frames make three segments of two, frames 0-1, 3-4, 6-7 (their means 0.5, 3.5, 6.5), one left out between."""
    labels, z = shown("order")
    orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    assert z == [[[0.5, 3.5, 6.5][i] for i in orders[label]] for label in labels]
    assert set(labels) == set(range(6))


def test_segments_without_a_gap_use_all_frames() -> None:
    """Nine frames without a gap: 0-2, 3-5, 6-8."""
    _, z = shown("order", frames=9, gap=0)
    assert all(sorted(row) == [1.0, 4.0, 7.0] for row in z)


def test_half_of_the_clips_run_backwards() -> None:
    labels, z = shown("arrow")
    forwards = [float(t) for t in range(10)]
    assert z == [forwards[::-1] if label else forwards for label in labels]
    assert 6 <= sum(labels) <= 18


def test_paces_show_equally_many_frames() -> None:
    """At most 10 frames of stride 4: three frames at any pace, anywhere in the clip."""
    labels, z = shown("pace", clips=60)
    for label, row in zip(labels, z, strict=True):
        assert len(row) == 3
        assert row[1] - row[0] == row[2] - row[1] == (1, 2, 4)[label]
    assert set(labels) == {0, 1, 2}
    assert {row[0] for label, row in zip(labels, z, strict=True) if label == 0} > {0.0, 7.0}  # all starts are used


def test_a_still_clip_tells_no_answer() -> None:
    """Without motion, what the heads see is the same for every label: nothing else gives it away."""
    torch.manual_seed(0)
    method = Order(build_encoder("small", SIZE), Order.default_views(SIZE))
    still = torch.randint(0, 256, (1, 1, 3, *SIZE), dtype=torch.uint8).expand(16, 10, 3, *SIZE)
    views, draws = method.prepare({"clips": still, "key": keys(16)})
    views = views[:1].expand_as(views)  # one augmentation for all
    for ask in (method._order, method._arrow, method._pace):
        scores, label, _ = ask(views, draws)
        assert len(set(label.tolist())) > 1
        torch.testing.assert_close(scores, scores[:1].expand_as(scores), rtol=1e-4, atol=1e-4)


def test_a_guess_costs_one() -> None:
    method = Order(build_encoder("small-motion", SIZE), Order.default_views(SIZE))
    for head in method.heads.values():
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    batch = numbered(4, 10)
    loss, metrics = method.loss(batch)
    torch.testing.assert_close(loss, torch.tensor(1.0))
    assert {name: round(float(metrics[f"chance_{name}"]), 4) for name in ("order", "arrow", "pace")} == {
        "order": 0.1667,
        "arrow": 0.5,
        "pace": 0.3333,
    }


def test_a_clips_question_depends_on_its_key_alone() -> None:
    method = Order(FrameNumbers(), Views.none(SIZE))
    whole = numbered(8, 10)
    part = {name: value[3:5] for name, value in whole.items()}
    for question in ("order", "arrow", "pace"):
        ask = getattr(method, f"_{question}")
        assert torch.equal(ask(*method.prepare(whole))[1][3:5], ask(*method.prepare(part))[1])


@pytest.mark.parametrize("task", ["order", "arrow", "pace"])
def test_one_question_asked_has_one_head(task: Any) -> None:
    method = Order(build_encoder("small-motion", SIZE), Order.default_views(SIZE), task=task)
    assert list(method.heads) == [task]
    _, metrics = method.loss(numbered(3, 10))
    assert {f"accuracy_{task}", f"chance_{task}"} <= set(metrics)


def test_refusals() -> None:
    def asked(frames: int, **options: Any) -> None:
        Order(FrameNumbers(), Views.none(SIZE), **options).loss(numbered(2, frames))

    with pytest.raises(VidsslError, match="choose from order, arrow, pace, all"):
        asked(10, task="speed")
    with pytest.raises(VidsslError, match="2 to 5 segments"):
        asked(10, segments=6)
    with pytest.raises(VidsslError, match="two different strides or more"):
        asked(10, paces=(2, 2))
    with pytest.raises(VidsslError, match="paces: got 3; write"):
        asked(10, paces=3)
    with pytest.raises(VidsslError, match="too short for 3 segments of 2 frames, 1 apart: raise --frames to 8"):
        asked(7, task="order")
    with pytest.raises(VidsslError, match="no direction of time"):
        asked(1, task="arrow")
    with pytest.raises(VidsslError, match="too short for a pace of 4: raise --frames to 5"):
        asked(4, task="pace")
