"""What has broken other implementations: extreme temperatures, near-uniform softmax, half types, memory, autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from core.reference import naive_losses
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidssl.core import Exclude, info_nce, lse, ops
from vidssl.errors import VidsslError


def unit(n: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64)).to(dtype)


def losses_and_gradients(function, *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def test_low_temperature_and_negative_cosines() -> None:
    # Scores from −100 to −50: exp(s − 1/τ) ≤ exp(−150) is 0 in float32, a loss by that shift is infinite.
    pole = unit(1, 8, seed=2)
    query = F.normalize(pole + 0.3 * unit(50, 8))
    key = F.normalize(-pole + 0.3 * unit(70, 8, seed=1))
    assert (query @ key.T).max() < -0.5
    positives = torch.arange(50)

    def exact(q: Tensor, k: Tensor) -> Tensor:
        return naive_losses(q, k, positives, 0.01).mean()

    got = losses_and_gradients(lambda q, k: info_nce(q, k, positives, 0.01), query, key)
    for mine, plain in zip(got, losses_and_gradients(exact, query.double(), key.double()), strict=True):
        torch.testing.assert_close(mine.double(), plain, rtol=1e-4, atol=1e-5)


def test_repulsion_of_a_near_uniform_softmax() -> None:
    # 16,384 keys, probabilities near 6e-5 each: nothing may be filtered away. Without any repulsion the gradient to a
    # query would be −positive / N, without part of it the sum over keys would be off.
    n, m = 300, 16_384
    query, key, positives = unit(n, 16), unit(m, 16, seed=1), torch.arange(n)
    got = losses_and_gradients(lambda q, k: info_nce(q, k, positives, 10.0), query, key)
    scores = query.double() @ key.double().T / 10
    slope = scores.softmax(1)
    slope[torch.arange(n), positives] -= 1
    slope /= n * 10
    torch.testing.assert_close(got[1].double(), slope @ key.double(), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(got[2].double(), slope.T @ query.double(), rtol=1e-4, atol=1e-9)
    repelled = got[2][n:]  # keys that are nobody's positive feel repulsion only
    assert (repelled @ query.mean(0)).mean() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_no_further_from_the_truth_than_materialised(dtype: torch.dtype, temperature: float) -> None:
    query = unit(256, 32, dtype=dtype)
    key = F.normalize(query.double() + 0.3 * unit(256, 32, seed=1, dtype=torch.float64)).to(dtype)
    own = torch.arange(256)
    truth = losses_and_gradients(lambda q, k: F.cross_entropy(q @ k.T / temperature, own), query.double(), key.double())
    plain = losses_and_gradients(lambda q, k: F.cross_entropy(q @ k.T / temperature, own), query, key)
    mine = losses_and_gradients(lambda q, k: info_nce(q, k, own, temperature), query, key)
    for exact, materialised, got in zip(truth, plain, mine, strict=True):
        slack = 4e-7 * exact.abs().max() + 1e-7 * dtype.itemsize / 4  # a few roundings of float32
        assert (got - exact).abs().max() <= 1.2 * (materialised - exact).abs().max() + slack


def test_a_loss_near_zero_keeps_its_digits() -> None:
    # Loss log(1 + 3 e^-14) = 2.5e-6 with scores 14 and 0: float32's log(total) − 14 would keep one digit at best.
    query = torch.eye(4)
    loss = info_nce(query, query, torch.arange(4), 1 / 14)
    assert abs(loss.item() - math.log1p(3 * math.exp(-14))) < 3e-7


def test_half_types_with_exclusions() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        query, key = unit(40, 16, dtype=dtype), unit(60, 16, seed=1, dtype=dtype)
        videos = torch.arange(60) // 5
        rule = Exclude(videos[:40], videos, "equal")
        positives = torch.arange(40)
        got = losses_and_gradients(lambda q, k, p=positives, r=rule: info_nce(q, k, p, 0.05, exclude=[r]), query, key)
        plain = losses_and_gradients(
            lambda q, k, p=positives, r=rule: naive_losses(q, k, p, 0.05, [r]).mean(), query, key
        )
        torch.testing.assert_close(got[0].double(), plain[0], rtol=1e-6, atol=1e-6)
        for mine, other in zip(got[1:], plain[1:], strict=True):
            assert mine.isfinite().all()
            torch.testing.assert_close(mine, other, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)


def test_strides_do_not_matter() -> None:
    query, key = unit(30, 8), unit(64, 8, seed=1)
    expected = losses_and_gradients(lambda q, k: info_nce(q, k, torch.arange(30), 0.1), query, key)
    twice = key.repeat_interleave(2, 0)
    views = [
        (query.T.contiguous().T, key),
        (query, twice[::2]),
        (torch.cat([query, query], 1)[:, :8], key.T.contiguous().T),
    ]
    for q, k in views:
        got = losses_and_gradients(lambda q, k: info_nce(q, k, torch.arange(60)[::2] // 2, 0.1), q, k)
        for mine, other in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, other)
    one = query[:1].expand(30, 8)
    assert info_nce(one, key, torch.zeros(30, dtype=torch.int64), 0.1).isfinite()


def test_nan_is_not_hidden() -> None:
    query = unit(10, 4)
    query[3, 1] = math.nan
    losses = info_nce(query, unit(10, 4, seed=1), torch.arange(10), 0.1, reduction="none")
    assert losses.isnan().nonzero().flatten().tolist() == [3]


def test_temperature_gradient_keeps_type_and_shape() -> None:
    query, key, positives = unit(30, 8), unit(30, 8, seed=1), torch.arange(30)
    log_temperature = torch.tensor([[math.log(0.1)]], dtype=torch.float64, requires_grad=True)
    plain = torch.tensor(math.log(0.1), dtype=torch.float64, requires_grad=True)
    info_nce(query, key, positives, log_temperature.exp()).backward()  # neither query nor key wants a gradient
    naive_losses(query, key, positives, plain.exp()).mean().backward()
    assert log_temperature.grad is not None
    assert log_temperature.grad.shape == (1, 1)
    torch.testing.assert_close(log_temperature.grad.flatten()[0], plain.grad, rtol=1e-5, atol=1e-5)


def test_autocast_leaves_the_accuracy_alone() -> None:
    query, key, positives = unit(40, 16), unit(40, 16, seed=1), torch.arange(40)
    expected = losses_and_gradients(lambda q, k: info_nce(q, k, positives, 0.1), query, key)
    with torch.autocast("cpu", torch.bfloat16):
        got = losses_and_gradients(lambda q, k: info_nce(q, k, positives, 0.1), query, key)
        rows = losses_and_gradients(lambda q, k: info_nce(q, k, positives, 0.1, reduction="none").mean(), query, key)
    for mine, other, plain in zip(got, rows, expected, strict=True):
        assert torch.equal(mine, plain)
        torch.testing.assert_close(other, plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo asks every tensor for it
def test_inside_a_compiled_function() -> None:
    query, key, positives = unit(40, 16), unit(40, 16, seed=1), torch.arange(40)

    def loss(q: Tensor, k: Tensor) -> Tensor:
        return info_nce(F.normalize(q * 2), k, positives, 0.1) + 1

    compiled = torch.compile(loss, backend="eager")
    got, plain = (losses_and_gradients(f, query, key) for f in (compiled, loss))
    for mine, other in zip(got, plain, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_graph_may_be_kept_but_not_differentiated_twice() -> None:
    query = unit(20, 8).requires_grad_()
    for reduction in ("mean", "none"):
        loss = info_nce(query, query, torch.arange(20).roll(1), 0.1, reduction=reduction).mean()
        (one,) = torch.autograd.grad(loss, query, retain_graph=True)
        (two,) = torch.autograd.grad(loss * 2, query, retain_graph=True)
        torch.testing.assert_close(two, 2 * one)
        with pytest.raises(VidsslError, match="gradients of gradients"):
            torch.autograd.grad(loss, query, create_graph=True)


class Watch(TorchDispatchMode):
    """Counts matrix products and remembers the largest tensor any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "vidssl":  # look inside the core's operators
            with self:
                result = getattr(ops, func.overloadpacket.__name__)._init_fn(*args, **(kwargs or {}))
        else:
            result = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_table_of_scores_is_never_made(reduction: str) -> None:
    n = 1536
    query, key = unit(n, 8).requires_grad_(), unit(n, 8, seed=1).requires_grad_()
    labels = torch.arange(n) // 3
    positives = torch.stack([torch.arange(n), torch.arange(n).roll(1)], 1)
    with Watch() as watch:
        rule = Exclude(labels, labels, "equal")
        info_nce(query, key, positives, 0.1, exclude=[rule], reduction=reduction).sum().backward()
    assert watch.largest <= 256 * n


def products(query_grad: bool, key_grad: bool, reduction: str = "mean") -> int:
    query, key = unit(20, 8).requires_grad_(query_grad), unit(20, 8, seed=1).requires_grad_(key_grad)
    with Watch() as watch:
        loss = info_nce(query, key, torch.arange(20), 0.1, reduction=reduction).mean()
        if loss.requires_grad:
            loss.backward()
    return watch.products


def test_gradients_nobody_wants_cost_nothing() -> None:
    assert [products(*wanted) for wanted in ((False, False), (True, False), (False, True), (True, True))] == [
        1,
        2,
        2,
        3,
    ]
    assert [products(*wanted, "none") for wanted in ((False, False), (True, False), (True, True))] == [1, 2, 4]
    with torch.no_grad():
        assert products(True, True) == 1


def test_lse_gives_a_queue_no_gradient() -> None:
    query, queue = unit(20, 8).requires_grad_(), unit(33, 8, seed=1)
    lse(query, queue, 0.1).sum().backward()
    expected = unit(20, 8).requires_grad_()
    (expected @ queue.T / 0.1).logsumexp(1).sum().backward()
    torch.testing.assert_close(query.grad, expected.grad)
