"""The Triton kernels in Triton's interpreter, against the plain float64 form.

`test_triton.py` runs this file in a process of its own: TRITON_INTERPRET has to be set before Triton is imported.

    TRITON_INTERPRET=1 pytest -n 0 tests/core/interpreted_kernels.py

Tiles are 32 × 16 here (16 × 16 and 16 × 8 for the symmetric kernels), so that few rows make several tiles.
"""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import triton.language as tl
from core.reference import naive_losses, naive_lse
from torch import Tensor
from triton.runtime import interpreter

from vidssl.core import Exclude, info_nce, lse, nt_xent, ops, triton_contrast, triton_symmetric, triton_tiles
from vidssl.core.info_nce import make_pairs

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, about rows past the end and planted NaN
HALF = [torch.bfloat16, torch.float16]

NOTICE = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo asks all for it


@pytest.fixture(autouse=True, scope="module")
def bfloat16() -> Iterator[None]:
    """The interpreter keeps bfloat16 as its 16 bits: it multiplies those as integers and rounds by cutting off."""
    assert triton_tiles.INTERPRETED
    builder = interpreter.InterpreterBuilder
    product, cast = builder.create_dot, builder.cast_impl

    def wide(handle: interpreter.TensorHandle) -> interpreter.TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def nearest(self, handle, kind):
        if (handle.dtype.scalar, kind.scalar) == (tl.float32, tl.bfloat16):
            bits = torch.from_numpy(np.ascontiguousarray(handle.data)).bfloat16().view(torch.int16).numpy()
            return interpreter.TensorHandle(bits.view(np.uint16), tl.bfloat16)
        return cast(self, handle, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_dot", lambda self, a, b, d, *rest: product(self, wide(a), wide(b), d, *rest))
        patch.setattr(builder, "cast_impl", nearest)
        yield


def unit(n: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64)).to(dtype)


def value_and_gradients(function, *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad((value * torch.linspace(-1, 2, value.numel())).sum(), leaves)]


def assert_close(
    got: list[Tensor], exact: list[Tensor], dtype: torch.dtype = torch.float32, float32: float = 5e-6
) -> None:
    """To rounding, relative to the largest entry: of the type of sums for losses, of the inputs for gradients."""
    for place, (mine, plain) in enumerate(zip(got, exact, strict=True)):
        accuracy = {torch.float32: float32, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype] if place else 1e-6
        assert (mine.double() - plain).abs().max() <= accuracy * plain.abs().max()


def labels(n: int, m: int, *kinds: str) -> list[Exclude]:
    return [Exclude(torch.arange(n) // 4 % (3 + i), torch.arange(m) // 4 % 3, kind) for i, kind in enumerate(kinds)]


SEVERAL = torch.randint(0, 55, (45, 3), generator=torch.Generator().manual_seed(0))
SEVERAL[:, 1] = SEVERAL[:, 0]  # one counts twice in the mean and once in the denominator
SEVERAL[::2, 2] = -1
CASES = {
    "one positive": (torch.float32, torch.arange(45), [], "mean"),
    "several": (torch.float32, SEVERAL, [], "none"),
    "excluded positives": (torch.float32, SEVERAL, labels(45, 55, "equal"), "mean"),
    "two rules": (torch.float32, SEVERAL, labels(45, 55, "equal", "different"), "none"),
    "bfloat16": (torch.bfloat16, SEVERAL, labels(45, 55, "different"), "mean"),
    "float16": (torch.float16, torch.arange(45), [], "none"),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_form(case: str) -> None:
    dtype, positives, rules, reduction = CASES[case]
    query, key, tau = unit(45, 20, dtype=dtype), unit(55, 20, 1, dtype), torch.tensor(0.1)

    def exact(q: Tensor, k: Tensor, t: Tensor) -> Tensor:
        losses = naive_losses(q, k, positives, t, rules)
        return losses.mean() if reduction == "mean" else losses

    got = value_and_gradients(
        lambda q, k, t: info_nce(q, k, positives, t, exclude=rules, reduction=reduction), query, key, tau
    )
    assert [x.dtype for x in got] == [torch.float32, dtype, dtype, torch.float32]
    assert_close(got, value_and_gradients(exact, query.double(), key.double(), tau.double()), dtype)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("n", "dtype", "own"), [(75, torch.float32, True), (61, torch.bfloat16, False)])
def test_symmetric_equals_the_plain_form(
    n: int, dtype: torch.dtype, own: bool, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 75 and 61 features: 5 and 4 blocks, an odd and an even number; 3 slots: two launches.
    monkeypatch.setattr(triton_symmetric, "SLOTS", 3)
    features, tau, index = unit(n, 20, dtype=dtype), torch.tensor(0.1), torch.arange(n)
    positives = torch.stack([index.roll(1), index.roll(-3), index.roll(1)], 1)
    videos = index // 4
    rules = [Exclude(videos, videos, "equal")]
    all_rules = [*rules, Exclude(index, index, "equal")] if own else rules
    got = value_and_gradients(
        lambda z, t: nt_xent(
            z, positives, t, exclude_self=own, exclude=rules, reduction="none", deterministic=deterministic
        ),
        features,
        tau,
    )
    exact = value_and_gradients(
        lambda z, t: naive_losses(z, z, positives, t, all_rules), features.double(), tau.double()
    )
    assert_close(got, exact, dtype)


def test_symmetric_in_one_block_and_without_rules() -> None:
    features, index = unit(10, 7), torch.arange(10)
    got = value_and_gradients(lambda z: nt_xent(z, index.roll(1), 0.01, exclude_self=False), features)
    exact = value_and_gradients(lambda z: naive_losses(z, z, index.roll(1), 0.01).mean(), features.double())
    assert_close(got, exact)


def test_low_temperature_and_negative_cosines() -> None:
    # Scores from −100 to −50: exp(s − 1/τ) ≤ exp(−150) is 0 in float32.
    pole = unit(1, 8, seed=2)
    query, key = F.normalize(pole + 0.3 * unit(35, 8)), F.normalize(-pole + 0.3 * unit(40, 8, seed=1))
    assert (query @ key.T).max() < -0.5
    own = torch.arange(35)
    got = value_and_gradients(lambda q, k: info_nce(q, k, own, 0.01), query, key)
    exact = value_and_gradients(lambda q, k: naive_losses(q, k, own, 0.01).mean(), query.double(), key.double())
    assert_close(got, exact, float32=3e-5)
    # Features against themselves: two bundles, each anchor's keys all in the other one; 35 rows do not fill the tiles.
    both = torch.cat([query[:18], key[:17]])
    side = (torch.arange(35) >= 18).long()
    rules, far = [Exclude(side, side, "equal")], (torch.arange(35) + 18) % 35
    far = torch.where(side[far] == side, 34 * (1 - side), far)
    for deterministic in (False, True):
        got = value_and_gradients(
            lambda z, d=deterministic: nt_xent(z, far, 0.01, exclude=rules, deterministic=d), both
        )
        exact = value_and_gradients(lambda z: naive_losses(z, z, far, 0.01, rules).mean(), both.double())
        assert_close(got, exact, float32=3e-5)  # a score near 100 is known to 4e-6


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_repulsion_of_a_near_uniform_softmax(dtype: torch.dtype) -> None:
    # 512 keys with probabilities near 1/512: none may be filtered away or lost to rounding.
    query, key, own = unit(20, 16, dtype=dtype), unit(512, 16, 1, dtype), torch.arange(20)
    got = value_and_gradients(lambda q, k: info_nce(q, k, own, 10.0), query, key)
    exact = value_and_gradients(lambda q, k: naive_losses(q, k, own, 10.0).mean(), query.double(), key.double())
    assert_close(got, exact, dtype)
    repelled, expected = got[2][20:].double(), exact[2][20:]  # keys that are nobody's positive
    assert (repelled - expected).norm() <= 0.01 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_no_further_from_the_truth_than_materialised(dtype: torch.dtype, temperature: float) -> None:
    query = unit(96, 32, dtype=dtype)
    key = F.normalize(query.double() + 0.3 * unit(96, 32, 1, torch.float64)).to(dtype)
    own = torch.arange(96)

    def table(q: Tensor, k: Tensor) -> Tensor:
        return F.cross_entropy(q @ k.T / temperature, own)

    truth = value_and_gradients(table, query.double(), key.double())
    plain = value_and_gradients(table, query, key)
    mine = value_and_gradients(lambda q, k: info_nce(q, k, own, temperature), query, key)
    # Where a positive has all the probability the table's float32 form cancels to the last bit, here one rounding of a
    # score stays: on the loss, and times 1 / (N τ), the size of a gradient's terms.
    score = 6e-8 / temperature
    terms = [score, *[score / (96 * temperature)] * 2]
    for exact, materialised, got, term in zip(truth, plain, mine, terms, strict=True):
        slack = 4e-7 * exact.abs().max() + 1e-7 * dtype.itemsize / 4 + term
        assert (got - exact).abs().max() <= 1.2 * (materialised - exact).abs().max() + slack


def test_lse_with_bias_and_with_nothing_left() -> None:
    query, key, bias = unit(20, 8), unit(37, 8, 1), torch.linspace(-3, 3, 37)
    bias[5] = -math.inf
    sides = torch.arange(20) % 2
    rules = [Exclude(sides, torch.zeros(37, dtype=torch.int64), "different")]  # odd anchors lose every key
    got = value_and_gradients(lambda q, k: lse(q, k, 0.2, bias=bias, exclude=rules)[::2], query, key)
    even = value_and_gradients(lambda q, k: naive_lse(q[::2] @ k.T / 0.2 + bias, []), query.double(), key.double())
    assert_close(got, even)
    query.requires_grad_()
    values = lse(query, key, 0.2, exclude=rules)
    assert values[1::2].eq(-math.inf).all()
    (gradient,) = torch.autograd.grad(values.sum(), query)
    assert gradient[1::2].eq(0).all()
    assert gradient.isfinite().all()


def test_a_queue_costs_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args, **kwargs):
        raise AssertionError("a pass for keys that want no gradient")

    monkeypatch.setattr(triton_contrast, "gradient_of_keys", never)
    query, queue = unit(20, 8).requires_grad_(), unit(33, 8, seed=1)
    info_nce(query, queue, torch.arange(20), 0.1).backward()
    exact = value_and_gradients(lambda q: naive_losses(q, queue, torch.arange(20), 0.1).mean(), query.double())
    (weight,) = value_and_gradients(lambda q: q.sum(), query)[1][0, :1]  # what value_and_gradients scales by
    assert_close([query.grad * weight], exact[1:])


def test_strides_and_nan() -> None:
    query, key, own = unit(30, 8), unit(64, 8, seed=1), torch.arange(30)
    expected = value_and_gradients(lambda q, k: info_nce(q, k, own, 0.1), query, key)
    views = [(query.T.contiguous().T, key), (query, key.repeat_interleave(2, 0)[::2])]
    for q, k in views:
        leaves = [q.detach().requires_grad_(), k.detach().requires_grad_()]
        assert torch.equal(info_nce(*leaves, own, 0.1).detach(), expected[0])
    query[3, 1] = math.nan
    assert info_nce(query, key, own, 0.1, reduction="none").isnan().nonzero().flatten().tolist() == [3]


def test_the_same_bits_each_time() -> None:
    features, positives = unit(50, 20), torch.arange(50) // 3  # several anchors add to one positive
    for function in (lambda z: info_nce(z, z.roll(1, 1), positives, 0.1, deterministic=True),
                     lambda z: nt_xent(z, positives, 0.1, deterministic=True)):  # fmt: skip
        once, again = (value_and_gradients(function, features) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@NOTICE
def test_operators_keep_their_word() -> None:
    query, key = unit(20, 8).requires_grad_(), unit(30, 8, seed=1).requires_grad_()
    pairs = make_pairs(
        query, key, torch.tensor(0.1, requires_grad=True), SEVERAL[:20] % 30, labels(20, 30, "equal"), None
    )
    asked = (query, key, pairs.temperature, pairs.positives, pairs.share, None, *pairs.rules, 8)
    own = (query, pairs.temperature, torch.arange(20).roll(1)[:, None], torch.ones(20, 1), pairs.rules.query, 1, True)
    assert set(torch.library.opcheck(ops.contrast, (*asked, True, True, True, False)).values()) == {"SUCCESS"}
    assert set(torch.library.opcheck(ops.symmetric, (*own, False, False)).values()) == {"SUCCESS"}


@NOTICE
def test_inside_a_compiled_function() -> None:
    positives = torch.arange(20).roll(1)

    def loss(z: Tensor) -> Tensor:
        z = F.normalize(z * 2)
        return nt_xent(z, positives, 0.1) + info_nce(z, z.detach(), positives, 0.2)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for mine, plain in zip(*(value_and_gradients(f, unit(20, 8)) for f in (compiled, loss)), strict=True):
        torch.testing.assert_close(mine, plain)
