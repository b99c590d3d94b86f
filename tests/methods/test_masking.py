"""Masks of space, alike at all times, and the network that fills them in."""

import pytest
import torch

from vidssl.core import sample_key
from vidssl.encoders.vit import positions
from vidssl.errors import VidsslError
from vidssl.methods.masking import Predictor, blocks, kept_places, split

KEYS = torch.tensor([sample_key(0, 0, i) for i in range(64)])


def test_split_worked_by_hand() -> None:
    """Places by score: 1, 2, 0, 3. Two are kept, at both times; place p of time t is token 4 t + p."""
    keep, masked = split(torch.tensor([[0.5, 0.1, 0.3, 0.9]]), kept=2, times=2)
    assert keep.tolist() == [[1, 2, 5, 6]]
    assert masked.tolist() == [[0, 3, 4, 7]]


def test_blocks_are_rectangles_of_the_area_asked_for() -> None:
    """One block: what scores 1 or more fills its bounding box, of 15 percent of 16x16 places and aspect 3/4 to 3/2."""
    inside = (blocks(KEYS, (16, 16), 1, 0.15, stream=5) >= 1).view(-1, 16, 16)
    for mask in inside:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert mask.sum() == height * width
        assert 0.6 < width / height < 1.8  # whole places round the ratio
        assert abs(height * width - 0.15 * 256) < 8
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in inside}) > 32  # anywhere


@pytest.mark.parametrize(("count", "area"), [(8, 0.15), (2, 0.7)])
def test_blocks_are_masked_first_and_the_rest_is_filled_up_at_random(count: int, area: float) -> None:
    """Whatever the blocks cover, a clip keeps 16 of 64 places: uncovered ones as long as there are any."""
    scores = blocks(KEYS, (8, 8), count, area, stream=1)
    keep, masked = split(scores, 16, 1)
    assert keep.shape == (64, 16)
    assert torch.equal(torch.cat([keep, masked], 1).sort(1).values, torch.arange(64).expand(64, -1))
    covered = scores >= 1
    for clip in range(64):
        free = int((~covered[clip]).sum())
        assert int(covered[clip, keep[clip]].sum()) == max(0, 16 - free)
    assert len({tuple(row.sort().values.tolist()) for row in keep}) > 50  # hardly two clips alike


def test_a_clips_mask_is_its_keys_alone() -> None:
    alone = blocks(KEYS[5:6], (8, 8), 8, 0.15, stream=1)
    torch.testing.assert_close(blocks(KEYS, (8, 8), 8, 0.15, stream=1)[5:6], alone, rtol=0, atol=0)
    assert not torch.equal(blocks(KEYS[5:6], (8, 8), 8, 0.15, stream=2), alone)


def test_kept_places() -> None:
    assert kept_places(0.1, (5, 8, 8)) == 6  # 6.4
    assert kept_places(0.01, (5, 4, 4)) == 1
    assert kept_places(0.99, (5, 4, 4)) == 15


def test_predictor_knows_tokens_by_their_places_not_their_order() -> None:
    torch.manual_seed(0)
    predictor = Predictor(8, 5, 64, 2)
    tokens = torch.randn(1, 4, 8)
    keep, masked = torch.tensor([[0, 3, 5, 6]]), torch.tensor([[1, 7]])
    order = torch.tensor([2, 0, 3, 1])
    with torch.inference_mode():
        out = predictor(tokens, keep, masked, (2, 2, 2))
        assert out.shape == (1, 2, 5)
        torch.testing.assert_close(predictor(tokens[:, order], keep[:, order], masked.flip(1), (2, 2, 2)).flip(1), out)
        moved = predictor(tokens, keep[:, order], masked, (2, 2, 2))
        assert (moved - out).abs().max() > 1e-3
        # With nothing to attend by, an answer is the mask token at its place, through norm and last layer.
        for block in predictor.blocks:
            for layer in (block.out, block.mlp[2]):
                torch.nn.init.zeros_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
        bare = predictor.out(predictor.norm(predictor.mask_token + positions((2, 2, 2), 64)[masked]))
        torch.testing.assert_close(predictor(tokens, keep, masked, (2, 2, 2)), bare)


@pytest.mark.parametrize(("width", "depth"), [(0, 2), (96, 2), (64, 0)])
def test_predictor_refusals(width: int, depth: int) -> None:
    with pytest.raises(VidsslError, match=f"got width={width}, depth={depth}; give a multiple of 64"):
        Predictor(8, 5, width, depth)
