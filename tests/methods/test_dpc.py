"""Dense predictive coding against its scores written out, and what each of its maps has seen."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidssl.core import sample_key
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.methods.dpc import DPC, CellGRU
from vidssl.views import Views

SIZE = (32, 32)


def method(**options: Any) -> DPC:
    torch.manual_seed(0)
    return DPC(build_encoder("small-motion", SIZE), Views.none(SIZE), **options)


def clips(count: int, frames: int) -> Tensor:
    return torch.randint(
        0, 256, (count, frames, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def batch(count: int, frames: int) -> dict[str, Tensor]:
    return {
        "clips": clips(count, frames),
        "key": torch.tensor([sample_key(0, 0, i) for i in range(count)]),
        "video": torch.arange(count),
    }


@pytest.mark.parametrize("negatives", ["both", "same-video"])
@pytest.mark.parametrize("temperature", [0.1, None])
def test_against_scores_written_out(negatives: Any, temperature: float | None) -> None:
    """Every cell of every predicted block has its own softmax over the cells of all predicted blocks and clips."""
    dpc = method(negatives=negatives, temperature=temperature, project=None).double()
    video = torch.tensor([0, 1, 0])
    predicted, z = torch.randn(2, 3, 2, 4, 2, 2, dtype=torch.float64)
    expected = []
    for b in range(3):
        for p in range(2):
            for i in range(2):
                for j in range(2):
                    scores, own = [], torch.zeros(())
                    for b2 in range(3):
                        if negatives == "same-video" and video[b2] != video[b]:
                            continue
                        for p2 in range(2):
                            for i2 in range(2):
                                for j2 in range(2):
                                    a, k = predicted[b, p, :, i, j], z[b2, p2, :, i2, j2]
                                    score = a @ k if temperature is None else (a @ k) / a.norm() / k.norm() / 0.1
                                    scores.append(score)
                                    if (b, p, i, j) == (b2, p2, i2, j2):
                                        own = score
                    expected.append(torch.stack(scores).logsumexp(0) - own)
    torch.testing.assert_close(dpc._contrast(predicted, z, video), torch.stack(expected).mean())


def test_a_prediction_sees_past_blocks_only() -> None:
    """Two blocks of the five are predicted: from the first three, whatever is in the last two."""
    dpc = method()
    views = torch.rand(2, 10, 3, *SIZE)
    other = views.clone()
    other[:, 6:] = torch.rand(2, 4, 3, *SIZE)
    maps, others = dpc._block_maps(views), dpc._block_maps(other)
    assert maps.shape == (2, 5, 256, 2, 2)
    assert torch.equal(maps[:, :3], others[:, :3])
    assert not torch.isclose(maps[:, 3:], others[:, 3:]).all()
    first, second = dpc._rollout(maps[:, :3]).unbind(1)
    assert not torch.isclose(first, second).all()


def test_a_block_does_not_see_the_frame_before_it() -> None:
    """Not even through the encoder's differences: a change of block 0 leaves the map of block 1 as it was."""
    dpc = method()
    views = torch.rand(1, 4, 3, *SIZE)
    other = torch.cat([torch.rand(1, 2, 3, *SIZE), views[:, 2:]], dim=1)
    maps, others = dpc._block_maps(views), dpc._block_maps(other)
    assert torch.equal(maps[:, 1], others[:, 1])
    assert not torch.isclose(maps[:, 0], others[:, 0]).all()


def test_a_right_prediction_costs_nothing_and_a_mixed_up_one_much() -> None:
    dpc = method(project=None, temperature=0.02)
    z = torch.randn(3, 2, 16, 2, 2)
    video = torch.arange(3)
    assert float(dpc._contrast(z, z, video)) < 1e-3
    assert float(dpc._contrast(z.flip(-1), z, video)) > 5  # every cell in another's place
    assert float(dpc._contrast(z.flip(1), z, video)) > 5  # every block at another's time


def test_clips_are_cut_from_their_end() -> None:
    """Five frames in blocks of two: the first frame is left over, the prediction reaches the last."""
    dpc = method(steps=1)
    data = batch(3, 5)
    changed = {**data, "clips": torch.cat([255 - data["clips"][:, :1], data["clips"][:, 1:]], dim=1)}
    assert torch.equal(dpc.loss(data)[0], dpc.loss(changed)[0])


def test_encoders_with_fewer_times_than_frames() -> None:
    """The map of a block is the mean over whatever times the encoder gives it."""

    class Pairs(nn.Module):
        dim, past = 6, 3

        def maps(self, clips: Tensor) -> Tensor:
            return clips.unflatten(1, (-1, 2)).flatten(2, 3)[..., :4, :4]

    dpc = DPC(Pairs(), Views.none(SIZE), block=4, steps=1)
    views = torch.rand(2, 12, 3, *SIZE)
    maps = dpc._block_maps(views)
    first = (views[:, 4:6] + views[:, 6:8]).flatten(1, 2)[..., :4, :4] / 2  # of block 1: frames 4-5 and 6-7
    torch.testing.assert_close(maps[:, 1], first)
    assert torch.isfinite(dpc.loss(batch(2, 12))[0])


def test_gated_unit_by_hand() -> None:
    """One channel, one cell. x = 1, h = 0.5; all weights 1, biases 0:

    update = reset = sigmoid(1.5) = 0.817574; candidate = tanh(1 + 0.817574 * 0.5) = tanh(1.408787) = 0.887236
    next = 0.182426 * 0.5 + 0.817574 * 0.887236 = 0.816594
    """
    unit = CellGRU(1)
    for name, parameter in unit.named_parameters():
        nn.init.constant_(parameter, 1.0 if "weight" in name else 0.0)
    found = unit(torch.tensor([[[[1.0]]]]), torch.tensor([[[[0.5]]]]))
    assert abs(found.item() - 0.816594) < 1e-5


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"clips of 5 frames are too short to predict 2 blocks.*raise --frames to 6"):
        method().loss(batch(2, 5))
    with pytest.raises(VidsslError, match="choose from both, same-video"):
        method(negatives="other-videos")
    with pytest.raises(VidsslError, match="got block=0"):
        method(block=0)
    with pytest.raises(VidsslError, match="temperature: got 0"):
        method(temperature=0.0)
    with pytest.raises(VidsslError, match="a batch of one cell has no negatives"):
        method()._contrast(torch.randn(1, 1, 256, 1, 1), torch.randn(1, 1, 256, 1, 1), torch.zeros(1, dtype=torch.long))
