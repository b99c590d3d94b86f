"""The core's operators as torch sees them, `torch.compile` of a function that uses them, and NT-Xent on the CPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from core.reference import naive_losses
from torch import Tensor

from vidssl.core import Exclude, info_nce, lse, nt_xent, ops
from vidssl.core.info_nce import make_pairs
from vidssl.errors import VidsslError

NOTICE = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo asks all for it


def features(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))).to(dtype)


@NOTICE
@pytest.mark.parametrize("mean", [True, False])
def test_operators_keep_their_word(mean: bool) -> None:
    query, key = features(12).requires_grad_(), features(20, 1).requires_grad_()
    tau = torch.tensor(0.3, requires_grad=True)
    positives = torch.arange(24).reshape(12, 2) % 20
    videos = torch.arange(20) // 3
    pairs = make_pairs(query, key, tau, positives, [Exclude(videos[:12], videos, "equal")], None)
    asked = (query, key, pairs.temperature, pairs.positives, pairs.share, None, *pairs.rules, pairs.rows)
    assert set(torch.library.opcheck(ops.contrast, (*asked, mean, True, True, False)).values()) == {"SUCCESS"}
    plain = tuple(x.detach() if isinstance(x, Tensor) else x for x in asked)
    assert set(
        torch.library.opcheck(
            ops.contrast_key_gradient, (*plain, torch.empty(0), torch.empty(0), torch.ones(12), False)
        ).values()
    ) == {"SUCCESS"}


@NOTICE
def test_compiled_whole() -> None:
    query, key, log_tau = features(40), features(60, 1), torch.tensor(math.log(0.1))
    own, videos = torch.arange(40), torch.arange(60) // 3
    rule = Exclude(videos[:40], videos, "equal")

    def loss(q: Tensor, k: Tensor, t: Tensor) -> Tensor:
        z = F.normalize(q * 2)
        rows = info_nce(z, k, torch.stack([own, own.flip(0)], 1), 0.2, reduction="none")
        return info_nce(z, k, own, t.exp(), exclude=[rule]) + nt_xent(z, own.roll(1), 0.5) + (rows - lse(z, k)).mean()

    def value_and_gradients(function) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (query, key, log_tau)]
        value = function(*leaves)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for mine, plain in zip(value_and_gradients(compiled), value_and_gradients(loss), strict=True):
        torch.testing.assert_close(mine, plain)


def test_nt_xent_by_hand() -> None:
    # Temperature 1/2, positives 1, 0, 0: scores 0 and −2 for anchor 0, 0 and 0 for anchor 1, −2 and 0 for anchor 2.
    three = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = [math.log(1 + math.exp(-2)), math.log(2), math.log(math.exp(-2) + 1) + 2]
    losses = nt_xent(three, torch.tensor([1, 0, 0]), 0.5, reduction="none")
    torch.testing.assert_close(losses, torch.tensor(expected))
    kept = nt_xent(three, torch.tensor([1, 0, 0]), 0.5, exclude_self=False, reduction="none")
    torch.testing.assert_close(kept[1], torch.tensor(math.log(2 + math.exp(2))))


def test_nt_xent_equals_the_plain_form() -> None:
    z, own = features(30).double().requires_grad_(), torch.arange(30)
    videos = own // 4
    rules = [Exclude(videos, videos, "equal")]
    mine = nt_xent(z, own.roll(1), 0.2, exclude=rules, deterministic=True)
    plain = naive_losses(z, z, own.roll(1), 0.2, [*rules, Exclude(own, own, "equal")]).mean()
    torch.testing.assert_close(mine, plain)
    torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in (mine, plain)))


def test_nt_xent_takes_one_vector_of_labels() -> None:
    with pytest.raises(VidsslError, match=r"Exclude\(labels, labels, …\)"):
        nt_xent(features(4), torch.arange(4), exclude=[Exclude(torch.arange(4), torch.arange(4), "equal")])
    with pytest.raises(VidsslError, match="nt_xent: reduction='sum'; use"):
        nt_xent(features(4), torch.arange(4), reduction="sum")  # type: ignore[arg-type]
