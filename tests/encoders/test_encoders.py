"""One contract for every encoder and every context."""

import pytest
import torch
from torch import nn

from vidssl.core.batch_norm import BatchNorm
from vidssl.encoders import ENCODERS, build_encoder
from vidssl.encoders.context import CONTEXTS, build_context
from vidssl.errors import VidsslError

CLIP_ENCODERS = ("r2plus1d-18", "r3d-18", "vit-video")
FRAME_ENCODERS = sorted(set(ENCODERS) - set(CLIP_ENCODERS))
TOKEN_ENCODERS = ("vit", "vit-video")


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_encoder_contract(name: str) -> None:
    """Features and maps of frames of several shapes, whatever size it was made for; features agree with maps."""
    torch.manual_seed(0)
    encoder = build_encoder(name, (64, 48)).eval()
    for frames, height, width in ((4, 64, 48), (2, 32, 32), (3, 96, 64), (1, 32, 40)):
        clips = torch.rand(2, frames, 3, height, width)
        with torch.inference_mode():
            features, maps = encoder(clips), encoder.maps(clips)
        times = {"r2plus1d-18": 1, "r3d-18": 1, "vit-video": (frames + 1) // 2}.get(name, frames)
        assert features.shape == (2, times, encoder.dim)
        assert maps.shape[:2] == (2, times)
        assert maps.ndim == 5
        assert torch.isfinite(features).all()
        if frames > 1 or not encoder.past:  # a single frame has no motion
            assert features.std() > 0
        if name != "control":  # the mean of the map, but for the one encoder that keeps places
            torch.testing.assert_close(features, maps.mean((-2, -1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_every_parameter_of_an_encoder_is_trained(name: str) -> None:
    """A parameter without gradient would stop DDP; a clip's features in eval mode depend on no other clip."""
    torch.manual_seed(0)
    encoder = build_encoder(name, (32, 32))
    clips = torch.rand(2, 2, 3, 32, 32)
    weights = torch.randn(encoder.dim)
    (encoder(clips) @ weights).square().sum().backward()
    assert [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    encoder.eval()
    with torch.inference_mode():
        torch.testing.assert_close(encoder(clips)[1:], encoder(clips[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FRAME_ENCODERS)
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


@pytest.mark.parametrize("name", FRAME_ENCODERS)
def test_encoder_step_equals_whole_clip(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, (64, 64)).eval()
    clips = torch.rand(2, 4, 3, 64, 64)
    with torch.inference_mode():
        whole = encoder(clips)
        steps = [encoder.step(clips[:, t], clips[:, t - 1] if t else None) for t in range(4)]
    scale = whole.abs().max()  # untrained deep ResNets give large numbers
    torch.testing.assert_close(torch.stack(steps, 1) / scale, whole / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CLIP_ENCODERS)
def test_clip_encoder_steps_on_its_window(name: str) -> None:
    """The mean feature of the last `window` frames; a stream that begins repeats its first frame."""
    torch.manual_seed(0)
    encoder = build_encoder(name, (32, 32)).eval()
    window = encoder.window
    assert encoder.past == window - 1
    clips = torch.rand(2, window, 3, 32, 32)
    with torch.inference_mode():
        scale = encoder(clips).abs().max()
        full = encoder.step(clips[:, -1], clips[:, :-1])
        torch.testing.assert_close(full / scale, encoder(clips).mean(1) / scale)
        first = encoder.step(clips[:, 0], None)
        still = clips[:, :1].expand(-1, window, -1, -1, -1)
        torch.testing.assert_close(first / scale, encoder(still).mean(1) / scale)
        second = encoder.step(clips[:, 1], clips[:, :1])
        torch.testing.assert_close(second / scale, encoder(torch.cat([still[:, 1:], clips[:, 1:2]], 1)).mean(1) / scale)


@pytest.mark.parametrize("name", [*CLIP_ENCODERS, "resnet18"])
def test_batch_norms_see_all_ranks(name: str) -> None:
    norms = [m for m in build_encoder(name, (32, 32)).modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, BatchNorm) for norm in norms)
    assert bool(norms) == (name != "vit-video")


@pytest.mark.parametrize(("name", "model"), [("r3d-18", "r3d_18"), ("r2plus1d-18", "r2plus1d_18")])
def test_video_resnet_is_torchvisions(name: str, model: str) -> None:
    """Under the same weights (so the same names) it gives torchvision's class scores."""
    import torchvision

    torch.manual_seed(0)
    theirs = getattr(torchvision.models.video, model)(weights=None).eval()
    ours = build_encoder(name, (32, 32)).eval()
    missing, unexpected = ours.trunk.load_state_dict(theirs.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ["fc.weight", "fc.bias"])
    clips = torch.rand(2, 8, 3, 32, 32)
    with torch.inference_mode():
        scores = theirs.fc(ours(clips).mean(1))
        expected = theirs(((clips - 0.45) / 0.25).transpose(1, 2))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_unknown_encoder_lists_the_valid_ones() -> None:
    with pytest.raises(VidsslError, match=r"unknown encoder 'resnet19'.*resnet18, .*resnet18-motion"):
        build_encoder("resnet19", (64, 64))


def test_too_small_frames() -> None:
    with pytest.raises(VidsslError, match="got 16x16, encoders need at least 32x32"):
        build_encoder("small", (16, 16))


@pytest.mark.parametrize("name", TOKEN_ENCODERS)
def test_frames_that_do_not_fit_the_patches(name: str) -> None:
    with pytest.raises(VidsslError, match="got 60x64, vit cuts frames into 8x8 patches; set --size to a multiple of 8"):
        build_encoder(name, (60, 64))
    with pytest.raises(VidsslError, match="frames of 64x60 can't be cut into patches of 8x8"):
        build_encoder(name, (64, 64))(torch.rand(1, 2, 3, 64, 60))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_leaves_the_gru_alone(dtype: torch.dtype) -> None:
    """The recurrence is float32 whatever autocast says; what comes out has the type of what went in."""
    torch.manual_seed(0)
    context = build_context("gru", 8, 16)
    features = torch.randn(2, 5, 8).to(dtype)
    exact = context(features.float())
    state, steps = None, []
    with torch.autocast("cpu", torch.bfloat16):
        whole = context(features)
        for t in range(5):
            out, state = context.step(features[:, t], state)
            assert state[0].dtype == torch.float32
            steps.append(out)
    assert torch.equal(whole, exact.to(dtype))
    torch.testing.assert_close(torch.stack(steps, 1), whole)


def test_one_frame_shows_no_motion_to_learn_from() -> None:
    encoder = build_encoder("small-motion", (32, 32))
    with pytest.raises(VidsslError, match="one frame shows no motion, which is all that this encoder sees"):
        encoder(torch.rand(2, 1, 3, 32, 32))
    assert encoder.eval()(torch.rand(2, 1, 3, 32, 32)).shape == (2, 1, 256)  # a stream begins with one
