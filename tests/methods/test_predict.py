"""Future frames: what the forms see, what the figures mean, what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidssl.core import sample_key
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.evaluate.image_quality import psnr
from vidssl.methods.decoders import PixelDecoder
from vidssl.methods.predict import ConvLSTMCell, Predict, quality
from vidssl.views import Views

SIZE = (32, 32)
FORMS = ("simvp", "recurrent")


def build(encoder: str = "fine-both", **options: Any) -> Predict:
    torch.manual_seed(0)
    return Predict(build_encoder(encoder, SIZE), Views.none(SIZE), **{"width": 16, "depth": 1, **options})


def batch(clips: Tensor) -> dict[str, Tensor]:
    return {"clips": clips, "key": torch.tensor([sample_key(0, 0, i) for i in range(len(clips))])}


def drifting(clips: int = 4, frames: int = 8) -> Tensor:
    """Soft noise that moves by a pixel a frame: uint8 [B,T,3,32,32]."""
    noise = torch.rand(clips, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    still = nn.functional.interpolate(noise, SIZE, mode="bicubic").clamp(0, 1)
    return torch.stack([still.roll(t, dims=-1) for t in range(frames)], dim=1).mul(255).byte()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoder", ["fine-both", "small-both", "vit-video"])
def test_frames_of_the_future(form: str, encoder: str) -> None:
    """Any encoder with maps will do: fine, coarse, and one with a map for every two frames."""
    method = build(encoder, form=form, future=3)
    past = torch.rand(2, 4, 3, *SIZE)
    frames = method.predict(past)
    assert frames.shape == (2, 3, 3, *SIZE)
    other = past.clone()
    other[:, 0, :, :8] = 0
    assert not torch.equal(method.predict(other), frames)  # the first frame of the past counts


@pytest.mark.parametrize("form", FORMS)
def test_learns_a_drift_better_than_copying(form: str) -> None:
    method, data = build(form=form, width=32), batch(drifting())
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(60):
        loss, metrics = method.loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["psnr"] > metrics["psnr_copy"] + 2
    assert metrics["ssim"] > metrics["ssim_copy"]


def test_the_loss_is_the_mean_square_of_the_frames_after_the_past() -> None:
    method, data = build(past=5, future=3), batch(drifting())
    loss, _ = method.loss(data)
    clips = data["clips"].float() / 255
    torch.testing.assert_close(loss, (method.predict(clips[:, :5]) - clips[:, 5:]).square().mean())


def test_a_window_of_a_longer_clip_follows_its_key_alone() -> None:
    method = build(past=2, future=1)
    clips = torch.arange(9, dtype=torch.uint8).view(1, 9, 1, 1, 1).expand(40, 9, 1, 1, 1)
    keys = torch.tensor([sample_key(0, 0, i) for i in range(40)])
    frames = method.window(clips, keys)[:, :, 0, 0, 0]
    assert (frames.long().diff(dim=1) == 1).all()
    assert set(frames[:, 0].tolist()) == set(range(7))
    assert torch.equal(method.window(clips, keys.flip(0))[:, :, 0, 0, 0], frames.flip(0))


def test_quality_beside_copying() -> None:
    """Still clips: copying is perfect, and capped at 100 dB; a prediction off by 0.1 has 20 dB."""
    true = torch.full((1, 2, 3, 16, 16), 0.5)
    numbers = quality(true + 0.1, true, true)
    assert numbers["psnr"].item() == pytest.approx(20, abs=1e-3)
    assert numbers["psnr_copy"].item() == 100
    assert numbers["ssim_copy"].item() == pytest.approx(1, abs=1e-5)
    moved = quality(true, true.flip(1) * torch.tensor([1.0, 0.5]).view(1, 2, 1, 1, 1), true)
    assert moved["psnr_copy"].item() == pytest.approx(psnr(true[0, :1] * 0.5, true[0, :1]).item())


def test_a_cell_of_a_convlstm_by_hand() -> None:
    """One pixel, all weights zero, biases given: i = σ(0), f = σ(1), o = σ(2), g = tanh(3)."""
    cell = ConvLSTMCell(1, 1)
    with torch.no_grad():
        cell.gates.weight.zero_()
        cell.gates.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    hidden, state = cell(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5))
    assert state.item() == pytest.approx(0.7310586 * 0.5 + 0.5 * 0.9950548, abs=1e-6)
    assert hidden.item() == pytest.approx(0.8807971 * torch.tensor(state.item()).tanh().item(), abs=1e-6)


def test_the_decoder_can_copy_what_it_is_shown() -> None:
    """Weights set so that the last layer passes the shown picture on: every pixel comes back in its place."""
    decoder = PixelDecoder(8, (2, 3), (16, 24), channels_out=3, skip=3, width=8)
    with torch.no_grad():
        decoder.out.weight.zero_()
        decoder.out.bias.zero_()
        decoder.out.weight[:, 8:, 1, 1] = torch.eye(48)
    picture = torch.rand(2, 3, 16, 24)
    painted = decoder(torch.randn(2, 5, 8, 2, 3), picture)
    torch.testing.assert_close(painted, picture[:, None].expand(2, 5, 3, 16, 24))


def test_sizes_that_are_no_power_of_two() -> None:
    decoder = PixelDecoder(8, (3, 3), (36, 44), channels_out=3)
    assert decoder(torch.randn(1, 2, 8, 3, 3)).shape == (1, 2, 3, 36, 44)


def test_mixed_precision_gives_the_same_figures() -> None:
    exact_loss, exact = build().loss(batch(drifting()))
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = build().loss(batch(drifting()))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact_loss, rtol=0.01, atol=0)
    torch.testing.assert_close(metrics["ssim_copy"], exact["ssim_copy"])


def test_refusals() -> None:
    with pytest.raises(VidsslError, match=r"clips of 7 frames are too short to predict 4 frames.*raise --frames to 8"):
        build().loss(batch(drifting(frames=7)))
    with pytest.raises(VidsslError, match="form: got 'gan'; choose from simvp, recurrent"):
        build(form="gan")
    with pytest.raises(VidsslError, match="a width that is a multiple of 8, and a skip of 0 to past"):
        build(skip=5)
    with pytest.raises(VidsslError, match="layers that this encoder has behind it would stay untrained"):
        build("control")
    with pytest.raises(VidsslError, match=r"frames of 34x34 aren't multiples of 4 pixels; change --size"):
        PixelDecoder(8, (2, 2), (34, 34), 3)
