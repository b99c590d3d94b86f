"""Tokens: where they lie, which are left out, and what each sees."""

import math

import pytest
import torch
from torch import Tensor, nn

from vidssl.encoders import build_encoder, token_encoder
from vidssl.encoders.vit import Transformer, patches, positions, take
from vidssl.errors import VidsslError

TOKEN_ENCODERS = ("vit", "vit-video")


def test_positions_worked_by_hand() -> None:
    """A 2x3 grid in 10 numbers: two pairs an axis, sines first, angles place and place/100; two are left over."""
    table = positions((2, 3), 10)
    assert table.shape == (6, 10)

    def of(place: int) -> list[float]:
        return [math.sin(place), math.sin(place / 100), math.cos(place), math.cos(place / 100)]

    for row in range(2):
        for column in range(3):
            expected = torch.tensor([*of(row), *of(column), 0.0, 0.0])
            torch.testing.assert_close(table[row * 3 + column], expected)


def test_patches_lie_in_the_order_of_the_grid() -> None:
    """Tube (i, j, k) holds frames 2i to 2i+2, rows 8j to 8j+8, columns 8k to 8k+8; its pixels by frame, row, column."""
    clips = torch.rand(2, 4, 3, 16, 24)
    cut = patches(clips, (2, 8, 8))
    assert cut.shape == (2, 2 * 2 * 3, 128, 3)
    for number, (i, j, k) in enumerate((i, j, k) for i in range(2) for j in range(2) for k in range(3)):
        tube = clips[:, 2 * i : 2 * i + 2, :, 8 * j : 8 * j + 8, 8 * k : 8 * k + 8]
        torch.testing.assert_close(cut[:, number], tube.movedim(2, -1).flatten(1, 3), rtol=0, atol=0)


def test_embedding_tubes_is_a_convolution() -> None:
    """The linear layer on tubes equals a 3-D convolution whose stride is its kernel (ViViT, section 3.2)."""
    torch.manual_seed(0)
    embed = Transformer(3 * 128, 16, 0, 1).embed
    convolution = nn.Conv3d(3, 16, (2, 8, 8), stride=(2, 8, 8))
    with torch.no_grad():
        convolution.weight.copy_(embed.weight.view(16, 2, 8, 8, 3).permute(0, 4, 1, 2, 3))
        convolution.bias.copy_(embed.bias)
        clips = torch.rand(1, 4, 3, 16, 24)
        expected = convolution(clips.transpose(1, 2)).flatten(2).mT
        torch.testing.assert_close(embed(patches(clips, (2, 8, 8)).flatten(2)), expected, rtol=1e-4, atol=1e-5)


def test_block_is_torchs_pre_norm_block() -> None:
    torch.manual_seed(0)
    ours = Transformer(6, 16, 1, 2).blocks[0]
    theirs = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.query_key_value.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.query_key_value.bias)
        theirs.self_attn.out_proj.load_state_dict(ours.out.state_dict())
        theirs.linear1.load_state_dict(ours.mlp[0].state_dict())
        theirs.linear2.load_state_dict(ours.mlp[2].state_dict())
        x = torch.randn(3, 5, 16)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TOKEN_ENCODERS)
def test_tokens_are_the_map_in_order(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, (32, 48)).eval()
    clips = torch.rand(2, 4, 3, 32, 48)
    t, h, w = encoder.grid(4)
    assert (t, h, w) == (4 // encoder.patch_pixels[0], 4, 6)
    with torch.inference_mode():
        tokens = encoder.tokens(clips)
        assert tokens.shape == (2, t * h * w, encoder.dim)
        torch.testing.assert_close(tokens.unflatten(1, (t, h, w)).movedim(-1, 2), encoder.maps(clips))


@pytest.mark.parametrize("name", TOKEN_ENCODERS)
def test_keeping_all_tokens_in_another_order_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, (32, 32)).double().eval()
    clips = torch.rand(2, 4, 3, 32, 32, dtype=torch.float64)
    t, h, w = encoder.grid(4)
    order = torch.stack([torch.randperm(t * h * w) for _ in range(2)])
    with torch.inference_mode():
        torch.testing.assert_close(encoder.tokens(clips, order), take(encoder.tokens(clips), order))


@pytest.mark.parametrize("name", TOKEN_ENCODERS)
def test_dropped_tokens_are_never_seen(name: str) -> None:
    """Pixels of a tube that is not kept change nothing, those of a kept one do; only kept rows are computed."""
    torch.manual_seed(0)
    encoder = build_encoder(name, (32, 32)).eval()
    clips = torch.rand(1, 4, 3, 32, 32)
    other = clips.clone()
    other[:, :, :, 8:16, 8:16] = 0  # row 1, column 1 of the grid: place 5 of 16
    rows: list[int] = []
    encoder.get_submodule("transformer" if name == "vit-video" else "trunk.transformer").embed.register_forward_hook(
        lambda module, inputs, output: rows.append(inputs[0].shape[1])
    )
    without = torch.tensor([[0, 1, 4, 16 + 6, 16 + 10]])
    with torch.inference_mode():
        torch.testing.assert_close(encoder.tokens(clips, without), encoder.tokens(other, without), rtol=0, atol=0)
        changed = encoder.tokens(clips, without + 1) - encoder.tokens(other, without + 1)  # 4 + 1 = 5
    assert rows == [5] * 4
    seen = changed.abs().amax(-1)[0] > 1e-6
    # vit: tokens 1, 2, 5 are of frame 0 and see the change; 23 and 27 are of frame 1. vit-video: all see all.
    assert seen.tolist() == ([True] * 3 + [False] * 2 if name == "vit" else [True] * 5)


def test_tokens_need_whole_tubes_features_do_not() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("vit-video", (32, 32)).eval()
    clips = torch.rand(1, 5, 3, 32, 32)
    for call in (lambda: encoder.tokens(clips), lambda: encoder.grid(5)):
        with pytest.raises(VidsslError, match="clips of 5 frames can't be cut into tubes of 2 frames; set --frames"):
            call()
    with torch.inference_mode():
        twice = encoder(torch.cat([clips[:, :1], clips], dim=1))
        torch.testing.assert_close(encoder(clips), twice)


def test_methods_that_mask_tokens_name_the_encoders_that_have_them() -> None:
    encoder = build_encoder("vit", (32, 32))
    assert token_encoder("vjepa", encoder) is encoder
    with pytest.raises(VidsslError, match=r"vjepa masks tokens.*use --encoder vit-video or vit"):
        token_encoder("vjepa", build_encoder("small", (32, 32)))


def test_gradients_of_tokens_against_finite_differences() -> None:
    torch.manual_seed(0)
    transformer = Transformer(6, 8, 2, 2).double()
    x = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)

    def tokens(x: Tensor) -> Tensor:
        return transformer(x, positions((4,), 8))

    assert torch.autograd.gradcheck(tokens, (x,))


@pytest.mark.parametrize("name", TOKEN_ENCODERS)
def test_positions_first_made_in_an_evaluation_serve_training(name: str) -> None:
    encoder: nn.Module = build_encoder(name, (40, 72))
    with torch.inference_mode():
        encoder(torch.rand(1, 2, 3, 40, 72))
    encoder(torch.rand(1, 2, 3, 40, 72)).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
