"""Batch norm over ranks against torch's on the whole batch."""

from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from torch import Tensor, nn

from vidssl.core import world
from vidssl.core.batch_norm import BatchNorm, convert_batch_norm
from vidssl.errors import VidsslError


def data() -> Tensor:
    return torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 5


def layer(kind: Any) -> Any:
    torch.manual_seed(1)
    made = kind(3).double()
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


def outcome(norm: Any, x: Tensor, whole: int) -> dict[str, Tensor]:
    """Output, gradients of a loss that is no symmetric function of the rows, and running statistics."""
    x = x.clone().requires_grad_()
    y = norm(x)
    (y.sin().sum() / whole).backward()
    return {
        "y": y.detach(),
        "x": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
        "batches": norm.num_batches_tracked,
    }


def on_a_rank() -> dict[str, Tensor]:
    rank, size = world()
    rows = slice(rank * 6 // size, (rank + 1) * 6 // size)
    return outcome(layer(BatchNorm), data()[rows], 6)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_give_what_torch_gives_on_the_whole_batch(ranks: int) -> None:
    whole = outcome(layer(nn.BatchNorm2d), data(), 6)
    shares = run_on_ranks(on_a_rank, ranks)
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([share[name] for share in shares]), whole[name])
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(share[name] for share in shares), whole[name])
    for share in shares:
        for name in ("mean", "var", "batches"):
            torch.testing.assert_close(share[name], whole[name])


def test_on_one_rank_it_is_torchs() -> None:
    ours, theirs = outcome(layer(BatchNorm), data(), 6), outcome(layer(nn.BatchNorm2d), data(), 6)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)


def test_a_single_value_is_refused() -> None:
    with pytest.raises(VidsslError, match=r"got 1 value a channel .* raise --batch-size"):
        BatchNorm(3)(torch.ones(1, 3))
    with pytest.raises(VidsslError, match=r"expected \[n, C, …\]"):
        BatchNorm(3)(torch.ones(3))


def test_conversion_keeps_names_weights_and_behaviour() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    x = torch.randn(2, 3, 8, 8)
    net(x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    expected = net.eval()(x)
    convert_batch_norm(net)
    assert [type(part).__name__ for part in (net[1], net[2][1])] == ["BatchNorm", "BatchNorm"]
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    torch.testing.assert_close(net.eval()(x), expected, rtol=0, atol=0)
