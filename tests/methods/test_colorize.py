"""Colours against OpenCV's, classes and copying worked by hand, what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_on_ranks
from torch import Tensor

from vidssl.core import sample_key, world
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.methods.colorize import Colorize, annealed_mean
from vidssl.methods.lab import gamut_bins, lab, palettes
from vidssl.views import Views

SIZE = (32, 32)


def build(encoder: str = "small-grey", **options: Any) -> Colorize:
    torch.manual_seed(0)
    return Colorize(build_encoder(encoder, SIZE), Views.none(SIZE), **options)


def batch(clips: Tensor) -> dict[str, Tensor]:
    return {"clips": clips, "key": torch.tensor([sample_key(0, 0, i) for i in range(len(clips))])}


def blobs(clips: int = 3, frames: int = 5) -> Tensor:
    """Squares of 8x8 pixels in eight strong colours, each with a brightness of its own; they move by a tile a frame."""
    random = np.random.default_rng(0)
    palette = np.indices((2, 2, 2)).reshape(3, -1).T * 150 + np.arange(8)[:, None] * 12
    still = palette[random.integers(0, 8, (clips, 4, 4))].repeat(8, 1).repeat(8, 2)
    moving = torch.from_numpy(still.astype(np.uint8)).permute(0, 3, 1, 2)
    return torch.stack([moving.roll(4 * t, dims=-1) for t in range(frames)], dim=1)


def test_lab_against_opencv() -> None:
    """OpenCV interpolates in a table, which shows in dark colours: up to half a unit."""
    import cv2

    rgb = torch.rand(3, 60, 60, generator=torch.Generator().manual_seed(0))
    expected = cv2.cvtColor(rgb.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2Lab)
    error = np.abs(lab(rgb).permute(1, 2, 0).numpy() - expected)
    assert error.mean() < 0.1
    assert error[rgb.amin(0).numpy() > 0.1].max() < 0.5


def test_lab_of_published_colours() -> None:
    """Red, blue, white and black under D65."""
    rgb = torch.tensor([[1.0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]).T[:, None]
    expected = [[53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [100, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(lab(rgb)[:, 0].T, torch.tensor(expected), atol=0.01, rtol=0)


def test_lab_has_a_gradient_everywhere() -> None:
    rgb = torch.tensor([0.0, 0.02, 0.5, 1.0], dtype=torch.float64).view(1, 4, 1).expand(3, 4, 1).clone()
    rgb.requires_grad_()
    lab(rgb)[0].sum().backward()
    assert rgb.grad is not None
    assert (rgb.grad > 0).sum() == 12


def test_bins_cover_the_gamut() -> None:
    """Every colour is within half a bin of a centre, along a and along b, and every bin is used by some colour."""
    bins = gamut_bins()
    rgb = torch.rand(3, 1, 20_000, generator=torch.Generator().manual_seed(1))
    ab = lab(rgb)[1:, 0].T
    nearest = (ab[:, None] - bins).abs().amax(-1).min(1).values
    assert (nearest <= 5.001).float().mean() > 0.999  # the cube was sampled, its surface may be missed by a hair
    assert 250 <= len(bins) <= 313
    assert [0.0, 0.0] in bins.tolist()


def test_palettes_find_clusters() -> None:
    """Three tight clusters a clip, found whatever the order of the places; another clip's are its own."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[[0.0, 0], [50, 0], [0, 60]], [[-20, -20], [20, 20], [90, 0]]])
    member = torch.randint(0, 3, (2, 90), generator=generator)
    places = centres.gather(1, member[..., None].expand(-1, -1, 2)) + torch.randn(2, 90, 2, generator=generator)
    found, label = palettes(places, 3)
    for clip in range(2):
        far = torch.cdist(found[clip], centres[clip])
        assert sorted(far.argmin(1).tolist()) == [0, 1, 2]
        assert far.min(1).values.max() < 0.6
        assert torch.equal(far.argmin(1)[label[clip]], member[clip])
    alone, _ = palettes(places[1:].flip(1), 3)
    torch.testing.assert_close(alone[0], found[1])


def test_palette_of_one_colour() -> None:
    found, label = palettes(torch.full((1, 10, 2), 7.0), 4)
    assert (label == label[0, 0]).all()
    assert found[0, label[0, 0]].tolist() == [7.0, 7.0]


def test_classes_by_hand() -> None:
    """All tiles of colour (0, 0): soft labels over the centre and its four neighbours at distance 10, exp(-2) each."""
    method = build(uniform=1.0)
    logits = torch.randn(1, 1, 3, len(method.bins))
    loss, metrics = method._classes(logits, torch.zeros(1, 1, 3, 2))
    near = [method.bins.tolist().index(ab) for ab in ([0.0, 0.0], [10.0, 0.0], [-10.0, 0.0], [0.0, 10.0], [0.0, -10.0])]
    share = torch.tensor([1.0] + 4 * [0.1353353]) / (1 + 4 * 0.1353353)
    expected = -(logits.log_softmax(-1)[0, 0][:, near] @ share).mean()
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=1e-4, atol=1e-5)
    assert metrics["colour_error_grey"] == 0


def test_rare_colours_count_more() -> None:
    """Eq. 4 with all tiles grey but 1 %: weights average 1 over what was seen, and a rare colour's is larger."""
    method = build()
    grey, rare = method.bins.tolist().index([0.0, 0.0]), method.bins.tolist().index([70.0, 60.0])
    method._count(torch.tensor(99 * [grey] + [rare]))
    weight = method.weights()
    bins, seen = method.bins, torch.zeros(len(method.bins))
    seen[grey], seen[rare] = 0.99, 0.01
    near = (-(bins[:, None] - bins).square().sum(-1) / 50).exp()
    share = seen @ (near / near.sum(1, keepdim=True))
    expected = 1 / (0.5 * share + 0.5 / len(bins))
    torch.testing.assert_close(weight, expected / (seen * expected).sum(), rtol=1e-4, atol=1e-5)
    assert weight[rare] > 10 * weight[grey]


def test_annealed_mean() -> None:
    """Between the mean and the mode: two bins at 0 and 100 with probabilities 0.4 and 0.6."""
    scores = torch.tensor([[0.4, 0.6]]).log()
    bins = torch.tensor([[0.0, 0.0], [100.0, 50.0]])
    share = 0.6 ** (1 / 0.38) / (0.6 ** (1 / 0.38) + 0.4 ** (1 / 0.38))
    torch.testing.assert_close(annealed_mean(scores, bins), torch.tensor([[100 * share, 50 * share]]))
    assert 0.6 < share < 1


def test_copying_written_out() -> None:
    """Each target tile's softmax over all tiles of the references, one by one."""
    method = build(form="copy", references=2, colours=3)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    colours = 40 * torch.randn(2, 4, 5, 2, generator=generator, dtype=torch.float64)
    loss, _ = method._copied(embeddings, colours)
    label = palettes(colours.flatten(1, 2), 3)[1].view(2, 4, 5)
    terms = []
    for clip in range(2):
        for t in (2, 3):
            for i in range(5):
                score = torch.stack(
                    [embeddings[clip, t, i] @ embeddings[clip, s, j] for s in (t - 2, t - 1) for j in range(5)]
                )
                colour = torch.stack([label[clip, s, j] for s in (t - 2, t - 1) for j in range(5)])
                right = score.softmax(0)[colour == label[clip, t, i]].sum()
                terms.append(-(right + 1e-4).log())
    torch.testing.assert_close(loss, torch.stack(terms).mean())


@pytest.mark.parametrize("form", ["classes", "copy"])
def test_grey_clips_are_all_it_sees(form: str) -> None:
    """Embeddings of a clip and of its luma are the same: nothing of the colours leaks into what predicts them."""
    method = build("fine-grey", form=form).eval()
    clips = blobs().float() / 255
    luma = (clips * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2, keepdim=True).expand_as(clips)
    assert not torch.equal(clips, luma)
    torch.testing.assert_close(method.embed(clips), method.embed(luma), rtol=1e-3, atol=1e-3)


def test_copying_learns_to_track() -> None:
    method, data = build("fine-grey", form="copy"), batch(blobs())
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    for _ in range(30):
        loss, metrics = method.loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["accuracy"] > 0.9
    assert metrics["accuracy_still"] < 0.8


def test_classes_learn_colours() -> None:
    """Brightness tells the colour here, so the error must fall well below that of guessing grey."""
    method, data = build("fine-grey"), batch(blobs())
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(40):
        loss, metrics = method.loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["colour_error"] < 0.5 * metrics["colour_error_grey"]


@pytest.mark.parametrize("form", ["classes", "copy"])
def test_mixed_precision_gives_the_same_loss(form: str) -> None:
    exact, _ = build("fine-grey", form=form).loss(batch(blobs()))
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = build("fine-grey", form=form).loss(batch(blobs()))
        assert torch.equal(gamut_bins(), build().bins)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.01, atol=0)


def gradient(form: str, clips: Tensor) -> dict[str, Tensor]:
    method = build("fine-grey", form=form).double()
    views = method.views
    method.views = lambda clips, keys: views(clips, keys).double()
    loss, _ = method.loss(batch(clips))
    loss.backward()
    return {name: parameter.grad for name, parameter in method.named_parameters() if parameter.grad is not None}


def gradient_on_ranks(form: str) -> dict[str, Tensor]:
    rank, size = world()
    return gradient(form, blobs(4).chunk(size)[rank])


@pytest.mark.parametrize("form", ["classes", "copy"])
def test_two_ranks_give_the_gradient_of_one_process(form: str) -> None:
    whole, shares = gradient(form, blobs(4)), run_on_ranks(gradient_on_ranks, 2, form)
    for name in whole:
        torch.testing.assert_close((shares[0][name] + shares[1][name]) / 2, whole[name], rtol=1e-5, atol=1e-7)


def test_refusals() -> None:
    with pytest.raises(
        VidsslError, match="needs an encoder that doesn't see them: use --encoder fine-grey or small-grey"
    ):
        build("small")
    with pytest.raises(VidsslError, match="form: got 'gan'; choose from classes, copy"):
        build(form="gan")
    with pytest.raises(VidsslError, match=r"uniform is in \(0, 1\]"):
        build(uniform=0.0)
    with pytest.raises(
        VidsslError, match=r"clips of 3 frames are too short to copy colours from 3 frames.*raise --frames to 4"
    ):
        build(form="copy").loss(batch(blobs(frames=3)))
