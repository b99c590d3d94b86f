"""One contract for every method; then what is particular to each."""

from typing import Any
from unittest import mock

import pytest
import torch
from ranks import run_on_ranks
from torch import Tensor, nn

import vidssl
from vidssl.core import sample_key
from vidssl.core.monitor import measuring
from vidssl.encoders import build_encoder
from vidssl.methods import METHODS, find_method
from vidssl.methods.cpc import CPC
from vidssl.methods.cpc_image import ImageCPC
from vidssl.methods.negatives import NEGATIVES
from vidssl.views import Views

SIZE = (32, 32)


# Small, so that the tests are fast, and able to work with the six clips of a batch that ranks share.
OPTIONS: dict[str, dict[str, Any]] = {
    "moco": {"queue": 12},  # full of real keys after three batches: the random ones it starts with are easy
    "wmse": {"dim": 2},  # fewer dims than clips
}
STARTED = {"moco": 3}  # steps after which its queue holds no random key any more
ENCODERS: dict[str, str] = {"cpc": "small", "ebm": "small", "moco": "small"}  # all clips here move alike


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    chosen = find_method(name)
    encoder = build_encoder(ENCODERS.get(name, chosen.default_encoder), SIZE)
    return chosen(encoder, chosen.default_views(SIZE), **{**OPTIONS.get(name, {}), **options})


def batch(clips: int = 4, frames: int = 8, videos: int | None = None) -> dict[str, Tensor]:
    """Clips of drifting noise: frame t is frame t-1 moved by a pixel, so that the future can be told from the past."""
    generator = torch.Generator().manual_seed(3)
    still = torch.randint(0, 256, (clips, 3, 32, 32), dtype=torch.uint8, generator=generator)
    moving = torch.stack([still.roll(t, dims=-1) for t in range(frames)], dim=1)
    turns = torch.linalg.matrix_exp(
        torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]]) * torch.linspace(0.2, 0.5, clips)[:, None, None]
    )
    return {
        "clips": moving,
        "rotation": turns,  # about the camera's axis
        "video": torch.arange(clips) % (videos or clips),
        "key": torch.tensor([sample_key(0, 0, i) for i in range(clips)]),
        "step": torch.tensor(7),
        "progress": torch.tensor(0.25),
    }


@pytest.mark.parametrize("name", sorted(METHODS))
def test_method_contract(name: str) -> None:
    method = build(name)
    loss, metrics = method.loss(batch())
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert all(metric.shape == () and not metric.requires_grad for metric in metrics.values())
    loss.backward()
    still = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert still == []
    assert {"feature_spread", "feature_rank"} <= set(metrics)
    assert method.output in ("encoder", "context")
    assert method.context is None or method.context.name in ("gru", "transformer")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_loss_does_not_depend_on_what_is_measured(name: str) -> None:
    whole = build(name).loss(batch())[0]
    with measuring(False):
        loss, metrics = build(name).loss(batch())
    assert torch.equal(loss, whole)
    assert not [metric for metric in metrics if metric.startswith(("feature_", "embedding_", "psnr", "ssim"))]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_loss_falls(name: str) -> None:
    method, data = build(name), batch()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        loss, _ = method.loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hasattr(method, "after_step"):
            method.after_step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < 0.8 * losses[STARTED.get(name, 0)]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_mixed_precision_gives_nearly_the_same_loss(name: str) -> None:
    """Networks in bf16, losses and statistics in float32: W-MSE's inverse of a small covariance differs most."""
    data = batch(clips=6)
    whole = build(name).loss(data)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = build(name).loss(data)[0]
    assert mixed.dtype == torch.float32
    assert abs(float(mixed.detach() - whole.detach())) < 0.05 * abs(float(whole.detach())) + 1e-3
    mixed.backward()


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_give_the_gradient_of_one_process(name: str, world: int) -> None:
    whole = gradient(name, 0, 1)
    shares = run_on_ranks(gradient_on_ranks, world, name)
    for parameter in whole:
        mean = sum(share[parameter] for share in shares) / world
        torch.testing.assert_close(mean, whole[parameter], rtol=1e-5, atol=1e-6)


def gradient_of_cells_on_ranks() -> dict[str, Tensor]:
    return gradient_on_ranks("cpc", cells=2.0)


def test_cells_on_ranks_give_the_gradient_of_one_process() -> None:
    whole = gradient("cpc", 0, 1, cells=2.0)
    shares = run_on_ranks(gradient_of_cells_on_ranks, 2)
    assert any(name.startswith("cell_contrast") for name in whole)
    for parameter in whole:
        mean = (shares[0][parameter] + shares[1][parameter]) / 2
        torch.testing.assert_close(mean, whole[parameter], rtol=1e-5, atol=1e-6)


def test_cells_are_told_apart_one_by_one() -> None:
    """A linear prediction that is right for every cell gives the least loss, one that mixes cells up does not."""
    from vidssl.methods.cells import CellContrast

    torch.manual_seed(0)
    contrast = CellContrast(dim=12, channels=3, cells=4, key_dim=3)
    frames = torch.randn(5, 1, 12).expand(5, 3, 12)  # still clips: every cell of t+1 is that of t
    maps = frames.unflatten(-1, (4, 3)).mT.unflatten(-1, (2, 2))  # cell n holds numbers 3n..3n+2
    with torch.no_grad():
        contrast.key.weight.copy_(torch.eye(3))
        contrast.query.weight.copy_(torch.eye(12))
        contrast.key.bias.zero_()
        contrast.query.bias.zero_()
        right = contrast(frames, maps)
        wrong = contrast(frames, maps.flip(-1))
    # Two frames a clip are alike, so a positive can at best be one of two.
    assert abs(float(right) - 0.693) < 0.2
    assert wrong > 2 * right


def gradient_on_ranks(name: str, **options: Any) -> dict[str, Tensor]:
    return gradient(name, *vidssl_world(), **options)


def vidssl_world() -> tuple[int, int]:
    from vidssl.core import world

    return world()


def gradient(name: str, rank: int, world: int, **options: Any) -> dict[str, Tensor]:
    """Of the loss on this rank's share of a batch of six clips, in float64 after the views."""
    method = build(name, **options).double()
    data = batch(clips=6, videos=4)
    share = slice(rank * 6 // world, (rank + 1) * 6 // world)
    views = Views.__call__
    with mock.patch.object(Views, "__call__", lambda *given, **named: views(*given, **named).double()):
        loss, _ = method.loss({key: value[share] if value.ndim else value for key, value in data.items()})
    loss.backward()
    return {key: parameter.grad for key, parameter in method.named_parameters() if parameter.grad is not None}


def test_unknown_method_lists_the_valid_ones() -> None:
    with pytest.raises(vidssl.VidsslError, match=r"unknown method 'cpd'; the methods here are: .*cpc, cpc-image"):
        find_method("cpd")


def test_a_method_from_elsewhere() -> None:
    assert find_method("vidssl.methods.cpc:CPC") is CPC
    with pytest.raises(vidssl.VidsslError, match="write it as module:Class"):
        find_method("nowhere.at.all:CPC")


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_cpc_against_scores_written_out(negatives: str) -> None:
    """The loss of every (clip, anchor time, step) with its own softmax, from the method's z, c and W_k."""
    method = build("cpc", negatives=negatives, steps=2).double()
    video = torch.tensor([0, 1, 0])
    z = torch.randn(3, 6, method.encoder.dim, dtype=torch.float64)
    c = torch.randn(3, 6, method.context.dim, dtype=torch.float64)
    loss, _ = method._contrast(z, c, video)
    keys = method.project(z)
    expected = []
    for clip in range(3):
        for step in (1, 2):
            for time in range(1, 4):  # c_0 is no anchor; t + 2 must be inside the clip
                query = method.predictors[step - 1](c[clip, time])
                scores = torch.cosine_similarity(query.expand_as(keys), keys, dim=-1) / method.temperature
                allowed = torch.ones(3, 6, dtype=torch.bool)
                if negatives != "both":
                    same = (video == video[clip])[:, None].expand(3, 6)
                    allowed = same.clone() if negatives == "same-video" else ~same
                allowed[clip, time + step] = True
                expected.append(scores[allowed].logsumexp(0) - scores[clip, time + step])
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_cpc_refusals() -> None:
    with pytest.raises(
        vidssl.VidsslError, match=r"clips of 4 frames are too short to predict 3 steps.*raise --frames to 5"
    ):
        build("cpc").loss(batch(frames=4))
    with pytest.raises(vidssl.VidsslError, match="every feature of this encoder sees the whole clip"):
        CPC(build_encoder("vit-video", SIZE), CPC.default_views(SIZE))
    with pytest.raises(vidssl.VidsslError, match="every clip of the batch is of one video"):
        build("cpc", negatives="other-videos").loss(batch(videos=1))
    with pytest.raises(vidssl.VidsslError, match="choose from same-video, other-videos, both"):
        build("cpc", negatives="none")
    with pytest.raises(vidssl.VidsslError, match="unknown context 'lstm'; the contexts here are: gru, transformer"):
        build("cpc", context="lstm")


def test_image_cpc_context_sees_rows_above_only() -> None:
    """Changing the patches of row 2 changes contexts of rows 2 and below, never above."""
    method = build("cpc-image")
    z = torch.randn(1, method.encoder.dim, 5, 5)
    other = z.clone()
    other[:, :, 2] = torch.randn(method.encoder.dim, 5)

    def context(x: Tensor) -> Tensor:
        for block in method.rows:
            x = block(x)
        return x

    changed = (context(z) - context(other)).abs().amax((0, 1, 3)) > 1e-6
    assert changed.tolist() == [False, False, True, True, True]


def test_image_cpc_patches_cover_the_frame_half_overlapping() -> None:
    """With an encoder that returns its patch, patch (i, j) is the frame from (4i, 4j) to (4i+16, 4j+16)."""
    method = build("cpc-image")
    frames = torch.rand(2, 3, 32, 32)
    method.encoder = Flat()
    patches = method.encode_patches(frames).view(2, 5, 5, 3, 16, 16)
    for i in range(5):
        for j in range(5):
            expected = frames[:, :, 4 * i : 4 * i + 16, 4 * j : 4 * j + 16]
            torch.testing.assert_close(patches[:, i, j], expected)


class Flat(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        return clips.flatten(2)


def test_image_cpc_refusals() -> None:
    with pytest.raises(vidssl.VidsslError, match="choose an encoder without motion"):
        ImageCPC(build_encoder("small-motion", SIZE), ImageCPC.default_views(SIZE))
    with pytest.raises(vidssl.VidsslError, match="got steps=5, grid=5"):
        build("cpc-image", steps=5)
