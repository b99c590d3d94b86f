"""VideoMAE: what is masked, what is painted."""

from typing import Any

import pytest
import torch

from vidssl.core import sample_key, uniform
from vidssl.encoders import build_encoder
from vidssl.encoders.vit import VideoViT
from vidssl.errors import VidsslError
from vidssl.methods.masking import split
from vidssl.methods.videomae import _STREAM, VideoMAE, normalised
from vidssl.views import Views

SIZE = (32, 32)


def build(**options: Any) -> VideoMAE:
    torch.manual_seed(0)
    return VideoMAE(VideoViT(SIZE, dim=64, depth=2, heads=1), Views.none(SIZE), **options)


def batch(clips: int = 8, frames: int = 4) -> dict[str, torch.Tensor]:
    """From dark to bright along another direction in every clip: any part tells the rest."""
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    angle = torch.arange(clips) * 2 * torch.pi / clips
    along = torch.cos(angle)[:, None, None] * (row - 15.5) + torch.sin(angle)[:, None, None] * (column - 15.5)
    return {
        "clips": (127.5 + 5 * along).to(torch.uint8)[:, None, None].repeat(1, frames, 3, 1, 1),
        "key": torch.tensor([sample_key(0, 0, i) for i in range(clips)]),
    }


def test_loss_written_out() -> None:
    """Two of 16 places are kept at both times; every masked tube's pixels, frame by frame, row by row, by colour."""
    method, data = build(), batch(clips=2)
    with torch.no_grad():
        loss, _ = method.loss(data)
        clips = data["clips"].float() / 255
        keep, masked = split(uniform(data["key"], 16, _STREAM), 2, 2)
        painted = method.decoder(method.encoder.tokens(clips, keep), keep, masked, (2, 4, 4))
        assert painted.shape == (2, 28, 2 * 8 * 8 * 3)
        errors = []
        for clip in range(2):
            for number, guess in zip(masked[clip].tolist(), painted[clip], strict=True):
                t, row, column = number // 16, number % 16 // 4, number % 4
                tube = clips[clip, 2 * t : 2 * t + 2, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                for colour in range(3):
                    pixels = tube[:, colour].flatten()
                    target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                    errors.append((guess.view(-1, 3)[:, colour] - target).square().mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean())


def test_flat_tubes_stay_flat() -> None:
    tubes = torch.full((1, 2, 4, 3), 0.4)
    tubes[0, 1, :, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    expected = torch.zeros_like(tubes)
    expected[0, 1, :, 0] = torch.tensor([-1.0, -1.0, 1.0, 1.0]) * 0.5 / (1 / 3 + 1e-6) ** 0.5  # variance 4 * 0.25 / 3
    torch.testing.assert_close(normalised(tubes), expected, rtol=1e-5, atol=1e-4)


def test_paints_what_it_was_not_shown() -> None:
    """At masks it has not met: far better than the mean of each tube, whose error is 1."""
    method = build()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    data = batch()
    for step in range(60):
        data["key"] = torch.tensor([sample_key(1, step, i) for i in range(8)])
        loss, _ = method.loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    data["key"] = torch.tensor([sample_key(2, 0, i) for i in range(8)])
    with torch.no_grad():
        assert float(method.loss(data)[0]) < 0.2


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"videomae masks tokens .* use --encoder vit-video or vit"):
        VideoMAE(build_encoder("small-motion", SIZE), Views.none(SIZE))
    for mask in (0.0, 1.0):
        with pytest.raises(VidsslError, match=f"mask: got {mask}; give the share of the places to mask"):
            build(mask=mask)
    with pytest.raises(VidsslError, match="clips of 3 frames can't be cut into tubes of 2 frames; set --frames"):
        build().loss(batch(frames=3))
