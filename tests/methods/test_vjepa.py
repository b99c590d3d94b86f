"""V-JEPA: what is predicted, from what, and what happens without stop-gradient."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from vidssl.core import sample_key
from vidssl.encoders import build_encoder
from vidssl.encoders.vit import VideoViT
from vidssl.errors import VidsslError
from vidssl.methods.masking import blocks, split
from vidssl.methods.vjepa import _STREAM, VJEPA
from vidssl.views import Views

SIZE = (32, 32)


def build(**options: Any) -> VJEPA:
    torch.manual_seed(0)
    return VJEPA(VideoViT(SIZE, dim=64, depth=2, heads=1), Views.none(SIZE), **options)


def batch(clips: int = 8, progress: float = 0.0) -> dict[str, torch.Tensor]:
    """Patterns that move: smooth, and another in every clip."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(clips, 3, 5, 5, generator=generator)
    still = F.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)
    moving = torch.stack([still.roll(2 * t, dims=-1) for t in range(4)], dim=1)
    return {
        "clips": (255 * moving).to(torch.uint8),
        "key": torch.tensor([sample_key(0, 0, i) for i in range(clips)]),
        "progress": torch.tensor(progress),
    }


def train(method: VJEPA, steps: int) -> list[dict[str, float]]:
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    log = []
    for step in range(steps):
        loss, metrics = method.loss(batch(progress=step / steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step()
        log.append({"loss": loss.item(), **{name: value.item() for name, value in metrics.items()}})
    return log


def test_loss_written_out() -> None:
    """Per clip and masked token: |prediction - normalised target|; mean over numbers, tokens, clips and masks."""
    method, data = build(), batch(clips=3)
    with torch.no_grad():
        for parameter in method.target_encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # the two encoders differ
        loss, metrics = method.loss(data)
        clips = data["clips"].float() / 255
        of_masks = []
        for number, (count, area, kept) in enumerate([(8, 0.15, 4), (2, 0.7, 2)]):  # of 4x4 places
            keep, masked = split(blocks(data["key"], (4, 4), count, area, _STREAM + number), kept, 2)
            assert keep.shape == (3, 2 * kept)
            errors = []
            for clip in range(3):
                one = slice(clip, clip + 1)
                known = method.encoder.tokens(clips[one], keep[one])
                predicted = method.predictor(known, keep[one], masked[one], (2, 4, 4))[0]
                for place, guess in zip(masked[clip].tolist(), predicted, strict=True):
                    token = method.target_encoder.tokens(clips[one])[0, place]
                    target = (token - token.mean()) / (token.var(correction=0) + 1e-5).sqrt()
                    errors.append((guess - target).abs().mean())
            of_masks.append(torch.stack(errors).mean())
    torch.testing.assert_close(metrics["loss_short"], of_masks[0])
    torch.testing.assert_close(metrics["loss_long"], of_masks[1])
    torch.testing.assert_close(loss, (of_masks[0] + of_masks[1]) / 2)


def test_one_mask_alone() -> None:
    loss, metrics = build(keep_short=0.0).loss(batch())
    assert "loss_short" not in metrics
    torch.testing.assert_close(loss.detach(), metrics["loss_long"])


def test_targets_take_no_gradient_and_follow_the_encoder() -> None:
    method = build(momentum=0.75)
    before = [p.clone() for p in method.target_encoder.parameters()]
    loss, metrics = method.loss(batch())
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.target_encoder.parameters())
    assert metrics["momentum"] == 0.75
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1.0)
    method.after_step()
    for old, new in zip(before, method.target_encoder.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
    method.loss(batch(progress=0.5))
    assert method.momentum == pytest.approx(0.875)  # half way to 1


def test_learns_without_collapse_and_collapses_without_stop_gradient() -> None:
    healthy = train(build(), 30)
    assert healthy[-1]["loss"] < 0.8 * healthy[0]["loss"]
    assert healthy[-1]["feature_spread"] > 0.3
    (ablation,) = VJEPA.ablations
    broken = train(build(**ablation.options), 30)
    assert broken[-1]["loss"] < 0.2 * healthy[-1]["loss"]  # nothing to tell, nothing to miss
    assert broken[-1]["feature_spread"] < 0.1


def test_refusals() -> None:
    for name in ("small", "r3d-18"):
        with pytest.raises(VidsslError, match=r"vjepa masks tokens .* use --encoder vit-video or vit"):
            VJEPA(build_encoder(name, SIZE), Views.none(SIZE))
    with pytest.raises(VidsslError, match=r"momentum: got 1\.5"):
        build(momentum=1.5)
    with pytest.raises(VidsslError, match=r"masks: got keep_short=0\.0, keep_long=0\.0; give shares below 1"):
        build(keep_short=0.0, keep_long=0.0)
    data = batch()
    with pytest.raises(VidsslError, match="clips of 3 frames can't be cut into tubes of 2 frames; set --frames"):
        build().loss(data | {"clips": data["clips"][:, :3]})
