"""What is particular to SimCLR, MoCo, BYOL, SimSiam and the energy-based method."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import ENCODERS, SIZE, batch, build
from torch import Tensor
from torch.nn import functional as F

import vidssl
from vidssl.checkpoint import write_config, write_model
from vidssl.methods.heads import EnergyHead
from vidssl.methods.simclr import among_all_views
from vidssl.train import exported


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1)


def softmax_loss(scores: Tensor, positive: int, allowed: Tensor) -> Tensor:
    """-log softmax of one score among the allowed ones, which the positive always is."""
    allowed = allowed.clone()
    allowed[positive] = True
    return scores[allowed].logsumexp(0) - scores[positive]


@pytest.mark.parametrize("negatives", ["other-videos", "both"])
def test_nt_xent_against_scores_written_out(negatives: str) -> None:
    z, video = unit(6, 4), torch.tensor([0, 1, 0]).repeat(2)  # clips 0 and 2 are of one video
    expected = []
    for i in range(6):
        allowed = torch.ones(6, dtype=torch.bool) if negatives == "both" else video != video[i]
        allowed[i] = False
        expected.append(softmax_loss(z @ z[i] / 0.5, (i + 3) % 6, allowed))
    torch.testing.assert_close(among_all_views(z, video, 2, 0.5, negatives), torch.stack(expected).mean())


def test_nt_xent_of_three_views_has_two_positives() -> None:
    z, video = unit(6, 4), torch.arange(2).repeat(3)
    expected = []
    for i in range(6):
        scores = z @ z[i]
        others = torch.arange(6) != i
        positives = [j for j in range(6) if j != i and j % 2 == i % 2]
        assert len(positives) == 2
        expected.append(scores[others].logsumexp(0) - scores[positives].mean())
    torch.testing.assert_close(among_all_views(z, video, 3, 1.0, "other-videos"), torch.stack(expected).mean())


def test_moco_against_scores_written_out() -> None:
    method = build("moco", queue=5).double()
    method.queue.keys.copy_(unit(5, 128))
    method.queue.labels.copy_(torch.tensor([0, 1, -1, 2, 0]))
    data = batch(clips=2, videos=2)
    loss = in_double(method, data)
    view, other = (v.double() for v in method.clip_views(data["clips"], data["key"]))
    query = F.normalize(method.projector(method.encoder(view).mean(1)), dim=1)
    key = F.normalize(method.target_projector(method.target_encoder(other).mean(1)), dim=1)
    expected = []
    for i, left_out in ((0, [0, 4]), (1, [1])):
        kept = [j for j in range(5) if j not in left_out]
        scores = torch.cat([(query[i] @ key[i])[None], method.queue.keys[kept] @ query[i]]) / method.temperature
        expected.append(scores.logsumexp(0) - scores[0])
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    method.after_step()
    torch.testing.assert_close(method.queue.keys[:2], key.detach())
    assert method.queue.labels.tolist() == [0, 1, -1, 2, 0]


def test_moco_v3_against_scores_written_out() -> None:
    method = build("moco-v3").double()
    data = batch(clips=3)
    loss = in_double(method, data)
    views = torch.cat(method.clip_views(data["clips"], data["key"])).double()
    query = F.normalize(method.predictor(method.projector(method.encoder(views).mean(1))), dim=1).chunk(2)
    key = F.normalize(method.target_projector(method.target_encoder(views).mean(1)), dim=1).chunk(2)
    ways = [F.cross_entropy(query[i] @ key[1 - i].T / 0.2, torch.arange(3)) for i in range(2)]
    torch.testing.assert_close(loss, 2 * 0.2 * (ways[0] + ways[1]) / 2)


def in_double(method: Any, data: dict[str, Tensor]) -> Tensor:
    """The loss with views in float64."""
    views = method.clip_views.views
    method.clip_views.views = lambda clips, keys, stream=0: views(clips, keys, stream).double()
    loss, _ = method.loss(data)
    method.clip_views.views = views
    return loss


def test_no_gradient_reaches_the_targets_and_they_follow() -> None:
    for name in ("byol", "moco", "moco-v3"):
        method = build(name, momentum=0.75)
        before = [p.clone() for p in method.target_encoder.parameters()]
        loss, _ = method.loss(batch())
        loss.backward()
        assert all(p.grad is None for p in method.target_encoder.parameters())
        with torch.no_grad():
            for p in method.encoder.parameters():
                p.add_(1.0)
        method.after_step()
        for old, new in zip(before, method.target_encoder.parameters(), strict=True):
            torch.testing.assert_close(new, old + (1 - method.momentum), rtol=0, atol=1e-5)
        assert method.momentum >= 0.75


def test_byol_and_simsiam_losses_by_hand() -> None:
    """With the predictor away and one view for both, every prediction is its target: the least loss there is."""
    for name, least in (("byol", 0.0), ("simsiam", -1.0)):
        method = build(name, predictor=False)
        method.clip_views = lambda clips, keys: [clips.float() / 255] * 2
        loss, _ = method.loss(batch())
        assert float(loss.detach()) == pytest.approx(least, abs=1e-5)


def test_stop_gradient_can_be_taken_away() -> None:
    for name in ("byol", "simsiam"):
        gradients = []
        for stop in (True, False):
            method = build(name, stop_gradient=stop)
            method.loss(batch())[0].backward()
            gradients.append(method.projector[0].weight.grad)
        assert not torch.allclose(*gradients)


@pytest.mark.parametrize("name", ["simclr", "moco-v3", "ebm"])
def test_no_negatives_are_refused(name: str) -> None:
    with pytest.raises(vidssl.VidsslError, match=r"(raise --batch-size|every clip of the batch is of one video)"):
        build(name).loss(batch(clips=1))
    with pytest.raises(vidssl.VidsslError, match="every clip of the batch is of one video"):
        build(name).loss(batch(clips=4, videos=1))
    loss, _ = build(name, negatives="both").loss(batch(clips=4, videos=1))
    assert torch.isfinite(loss)


def test_moco_finds_out_that_there_is_one_video() -> None:
    method = build("moco", queue=16)
    for _ in range(2):
        method.loss(batch(clips=4, videos=1))
        method.after_step()
    with pytest.raises(vidssl.VidsslError, match="every clip of the batch is of one video"):
        method.loss(batch(clips=4, videos=1))
    assert int((method.queue.labels == 0).sum()) == 8


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simclr", {"temperature": 0.0}, "temperature: got 0.0; give one above 0"),
        ("simclr", {"positives": 1}, "positives: got 1"),
        ("simclr", {"negatives": "same-video"}, "choose other-videos or both"),
        ("moco", {"temperature": -1.0}, "temperature: got -1.0"),
        ("moco", {"momentum": 1.5}, "momentum: got 1.5"),
        ("moco-v3", {"negatives": "none"}, "choose other-videos or both"),
        ("byol", {"momentum": -0.1}, "momentum: got -0.1"),
        ("ebm", {"pairs": "past"}, "unknown ebm pairs 'past'"),
        ("ebm", {"trained_by": "likelihood"}, "unknown ebm trained_by"),
        ("ebm", {"margin": 2.5}, "margin 2.5"),
        ("ebm", {"negatives": "none"}, "choose other-videos or both"),
    ],
)
def test_refusals(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(vidssl.VidsslError, match=message):
        build(name, **options)


@pytest.mark.parametrize("trained_by", ["contrastive", "margin", "square"])
def test_ebm_losses_written_out(trained_by: str) -> None:
    method = build("ebm", trained_by=trained_by, margin=0.6, temperature=0.3)
    x, y, video = unit(4, 8), unit(5, 8)[1:], torch.tensor([0, 1, 2, 0])
    loss, false = method._contrasted(x, y, video)
    energy = 1 - x @ y.T
    others = [[j for j in range(4) if video[j] != video[i]] for i in range(4)]
    each = []
    for i in range(4):
        own, wrong = energy[i, i], energy[i, others[i]]
        if trained_by == "contrastive":
            each.append(-torch.log(torch.exp(-own / 0.3) / (torch.exp(-own / 0.3) + torch.exp(-wrong / 0.3).sum())))
        elif trained_by == "margin":
            over = (0.6 + own - wrong).clamp_min(0)
            each.append(over.sum() / max(1, int((over > 0).sum())))
        else:
            each.append(own**2 + ((0.6 - wrong).clamp_min(0) ** 2).mean())
    torch.testing.assert_close(loss, torch.stack(each).mean())
    torch.testing.assert_close(false, torch.cat([energy[i, others[i]] for i in range(4)]).mean())


def test_future_pairs_are_augmented_alike_and_apart_in_time() -> None:
    method = build("ebm", frames=3, distance=4)
    still = batch()["clips"][:, :1].expand(-1, 8, -1, -1, -1)
    x, y = method._windows(still, batch()["key"])
    assert torch.equal(x, y)  # a still clip: its future looks the same
    assert x.shape[1] == 3
    with pytest.raises(vidssl.VidsslError, match="clips of 6 frames are too short for 2 views of 3 frames 4 frames"):
        method._windows(still[:, :6], batch()["key"])


def test_the_energy_of_a_run(tmp_path: Path) -> None:
    method = build("ebm")
    write_model(tmp_path, exported(method))
    config = {
        "encoder": {"name": ENCODERS["ebm"], "dim": 256},
        "context": None,
        "energy": method.energy.sizes,
        "image_size": list(SIZE),
        "fps": None,
        "output": "encoder",
        "method": {"name": "ebm"},
    }
    write_config(tmp_path, config)
    energy = vidssl.load_energy(tmp_path)
    clips = batch()["clips"].movedim(2, -1)
    a, b = clips[:, :4], clips[:, 4:]
    found = energy(a, b)
    method.eval()
    x, y = (part.movedim(-1, 2).float() / 255 for part in (a, b))
    with torch.no_grad():
        expected = method.energy(method.encoder(x).mean(1), method.encoder(y).mean(1))
    torch.testing.assert_close(found, expected)
    assert found.shape == (4,)
    torch.testing.assert_close(energy(a[0], b[0]), found[0])
    assert vidssl.load_encoder(tmp_path).dim == 256
    with pytest.raises(vidssl.VidsslError, match="as many clips in a as in b"):
        energy(a, b[:2])
    write_config(tmp_path, config | {"energy": None, "method": {"name": "byol"}})
    with pytest.raises(vidssl.VidsslError, match="method byol exports no energy; train one with --method ebm"):
        vidssl.load_energy(tmp_path)


def test_energy_is_between_0_and_2_and_directed() -> None:
    torch.manual_seed(0)
    head = EnergyHead(6, 8, 4)
    a, b = torch.randn(2, 50, 6)
    found = head(a, b).detach()
    assert bool(((found >= 0) & (found <= 2)).all())
    assert not torch.allclose(found, head(b, a).detach())
