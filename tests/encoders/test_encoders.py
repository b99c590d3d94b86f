"""One contract for every encoder and every context."""

import pytest
import torch
from torch import nn

from vidssl.encoders import ENCODERS, build_encoder
from vidssl.encoders.context import CONTEXTS, build_context
from vidssl.errors import VidsslError


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_encoder_contract(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, (64, 48)).eval()
    clips = torch.rand(2, 3, 3, 64, 48)
    with torch.inference_mode():
        features, maps = encoder(clips), encoder.maps(clips)
    assert features.shape == (2, 3, encoder.dim)
    assert maps.shape[:2] == (2, 3)
    assert maps.ndim == 5
    assert torch.isfinite(features).all()
    assert features.std() > 0


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_encoder_sees_past_frames_only(name: str) -> None:
    """Changing frame t changes the features of frames t..t+past and of no other."""
    torch.manual_seed(0)
    encoder = build_encoder(name, (64, 64)).eval()
    clips = torch.rand(1, 5, 3, 64, 64)
    other = clips.clone()
    other[:, 2] = torch.rand(3, 64, 64)
    with torch.inference_mode():
        changed = (encoder(clips) - encoder(other)).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [2 <= t <= 2 + encoder.past for t in range(5)]


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_encoder_step_equals_whole_clip(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, (64, 64)).eval()
    clips = torch.rand(2, 4, 3, 64, 64)
    with torch.inference_mode():
        whole = encoder(clips)
        steps = [encoder.step(clips[:, t], clips[:, t - 1] if t else None) for t in range(4)]
    scale = whole.abs().max()  # untrained deep ResNets give large numbers
    torch.testing.assert_close(torch.stack(steps, 1) / scale, whole / scale, rtol=1e-5, atol=1e-5)


def test_unknown_encoder_lists_the_valid_ones() -> None:
    with pytest.raises(VidsslError, match=r"unknown encoder 'resnet19'.*resnet18, .*resnet18-motion"):
        build_encoder("resnet19", (64, 64))


def test_too_small_frames() -> None:
    with pytest.raises(VidsslError, match="got 16x16, encoders need at least 32x32"):
        build_encoder("small", (16, 16))


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_context_is_causal(name: str) -> None:
    torch.manual_seed(0)
    context = build_context(name, 8, 16).eval()
    features = torch.randn(2, 6, 8)
    other = features.clone()
    other[:, 3] += 1
    with torch.inference_mode():
        changed = (context(features) - context(other)).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_context_step_equals_whole_clip_beyond_the_window(name: str) -> None:
    torch.manual_seed(0)
    context = build_context(name, 8, 16).eval()
    features = torch.randn(2, 40, 8)  # longer than the transformer's window of 16
    state, steps = None, []
    with torch.inference_mode():
        for t in range(40):
            out, state = context.step(features[:, t], state)
            steps.append(out)
        torch.testing.assert_close(torch.stack(steps, 1), context(features), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_context_forgets_rows(name: str) -> None:
    """A row that was put back to the start gives what a fresh stream gives; the other goes on."""
    torch.manual_seed(0)
    context = build_context(name, 8, 16).eval()
    features = torch.randn(2, 7, 8)
    state, outs = None, []
    with torch.inference_mode():
        for t in range(7):
            if t == 4:
                state = context.forget(state, torch.tensor([True, False]))
            out, state = context.step(features[:, t], state)
            outs.append(out)
        fresh = context(features[:1, 4:])
        torch.testing.assert_close(torch.stack(outs[4:], 1)[:1], fresh, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.stack(outs, 1)[1:], context(features[1:]), rtol=1e-5, atol=1e-5)


def test_gru_step_worked_by_hand() -> None:
    """With zero weights and biases a GRU cell halves its state: h' = (1 - 1/2) tanh(0) + 1/2 h."""
    context = build_context("gru", 4, 4)
    for parameter in context.parameters():
        nn.init.zeros_(parameter)
    out, _ = context.step(torch.ones(1, 4), [torch.full((1, 1, 4), 0.8)])
    torch.testing.assert_close(out, torch.full((1, 4), 0.4))
