"""InfoNCE by hand, by finite differences, and against the plain form on random cases."""

import math

import pytest
import torch
import torch.nn.functional as F
from core.reference import naive_losses, naive_lse
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidssl.core import Exclude, info_nce, lse
from vidssl.errors import VidsslError

THREE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])


def test_three_vectors_by_hand() -> None:
    # Anchors = keys = (1,0), (0,1), (−1,0), temperature 1/2: scores are twice the dot products,
    #          key 0  1  2
    # anchor 0:   2  0 −2      loss with itself as positive: log(e² + 1 + e⁻²) − 2 = log(1 + e⁻² + e⁻⁴)
    # anchor 1:   0  2  0                                    log(1 + 2e⁻²)
    # anchor 2:  −2  0  2                                    as anchor 0
    e2, e4 = math.exp(-2), math.exp(-4)
    expected = torch.tensor([math.log(1 + e2 + e4), math.log(1 + 2 * e2), math.log(1 + e2 + e4)])
    own = torch.arange(3)
    torch.testing.assert_close(info_nce(THREE, THREE, own, 0.5, reduction="none"), expected)
    torch.testing.assert_close(info_nce(THREE, THREE, own, 0.5), expected.mean())
    torch.testing.assert_close(lse(THREE, THREE, 0.5), expected + 2)


def test_several_positives_by_hand() -> None:
    # Anchor 0 has positives 0 and 1: log(e² + 1 + e⁻²) − (2 + 0) / 2; anchor 1 has 1 alone; anchor 2 has 2, 2 and 0:
    # log(e² + 1 + e⁻²) − (2 + 2 − 2) / 3.
    positives = torch.tensor([[0, 1, -1], [-1, 1, -1], [2, 2, 0]])
    top, middle = math.log(math.exp(2) + 1 + math.exp(-2)), math.log(math.exp(2) + 2)
    expected = torch.tensor([top - 1, middle - 2, top - 2 / 3])
    torch.testing.assert_close(info_nce(THREE, THREE, positives, 0.5, reduction="none"), expected)


def test_exclusions_by_hand() -> None:
    # Videos 0, 0, 1; negatives from other videos only. Anchor 0 keeps its positive 0 and key 2, anchor 1 itself and
    # key 2, anchor 2 all. With "different" anchors 0 and 1 keep keys 0 and 1, anchor 2 itself alone: loss 0.
    videos, own = torch.tensor([0, 0, 1]), torch.arange(3)
    e2, e4 = math.exp(-2), math.exp(-4)
    others = info_nce(THREE, THREE, own, 0.5, exclude=[Exclude(videos, videos, "equal")], reduction="none")
    torch.testing.assert_close(others, torch.tensor([math.log(1 + e4), math.log(1 + e2), math.log(1 + e2 + e4)]))
    same = info_nce(THREE, THREE, own, 0.5, exclude=[Exclude(videos, videos, "different")], reduction="none")
    torch.testing.assert_close(same, torch.tensor([math.log(1 + e2), math.log(1 + e2), 0.0]))
    both = [Exclude(videos, videos, "different"), Exclude(own, own, "equal")]  # OR-ed: nothing is left but the positive
    torch.testing.assert_close(info_nce(THREE, THREE, own, 0.5, exclude=both, reduction="none")[2].item(), 0.0)


def test_nothing_left_is_minus_infinity_without_gradient() -> None:
    query = THREE.clone().requires_grad_()
    videos = torch.tensor([0, 0, 1])
    rule = Exclude(videos, torch.zeros(3, dtype=torch.int64), "equal")  # anchors 0 and 1 lose every key
    for scale in (1.0, 100.0):  # without and with subtraction of the row maximum
        values = lse(query * scale, THREE, 0.5, exclude=[rule])
        assert values[:2].tolist() == [-math.inf, -math.inf]
        (gradient,) = torch.autograd.grad(values[2] + values[0] * 0.5, query)
        assert gradient[:2].eq(0).all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 30.0])  # below and above the bound where the row maximum is subtracted
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(scale: float, reduction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (scale * torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (5, 7))
    temperature = torch.tensor([scale], dtype=torch.float64)
    positives = torch.tensor([[0, 2], [3, -1], [-1, 6], [4, 4], [1, 0]])
    videos = torch.arange(7) % 3
    rules = [Exclude(videos[:5], videos, "equal"), Exclude(torch.arange(5), torch.arange(7), "equal")]

    def loss(q: Tensor, k: Tensor, t: Tensor) -> Tensor:
        return info_nce(q, k, positives, t, exclude=rules, reduction=reduction, tile=2)

    def table(q: Tensor, k: Tensor, t: Tensor) -> Tensor:
        return lse(q, k, t, exclude=rules, tile=3)

    inputs = [x.requires_grad_() for x in (query, key, temperature)]
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradcheck(table, inputs)


@st.composite
def cases(draw: st.DrawFn) -> dict:
    n, m, dim, width = (draw(st.integers(1, high)) for high in (40, 50, 9, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    positives = torch.randint(-1, m, (n, width), generator=generator)
    positives[:, draw(st.integers(0, width - 1))].clamp_(min=0)  # at least one
    kinds = draw(st.lists(st.sampled_from(["equal", "different"]), max_size=2))
    labels = [torch.randint(0, 3, (n + m,), generator=generator) for _ in kinds]
    return {
        "query": torch.randn(n, dim, generator=generator),
        "key": torch.randn(m, dim, generator=generator),
        "positives": positives[:, 0].clamp(min=0) if width == 1 else positives,
        "temperature": draw(st.sampled_from([0.03, 0.3, 2.0])),
        "exclude": [Exclude(row[:n], row[n:], kind) for row, kind in zip(labels, kinds, strict=True)],
        "tile": draw(st.integers(1, 45)),
    }


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
def test_equals_the_plain_form(case: dict, dtype: torch.dtype) -> None:
    tile = case.pop("tile")
    case["query"], case["key"] = (case[name].to(dtype).requires_grad_() for name in ("query", "key"))
    expected = naive_losses(**case)
    got = info_nce(**case, tile=tile, reduction="none")
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # The loss is lse - score: near 0 it keeps the rounding of a score, whose size is |query| |key| / temperature.
    norms = [case[name].detach().double().norm(dim=1).max().item() for name in ("query", "key")]
    rounding = 2 * torch.finfo(got.dtype).eps * math.prod(norms) / case["temperature"]
    accuracy = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(got.double(), expected, rtol=accuracy, atol=accuracy + rounding)
    weights = torch.linspace(-1, 1, len(got), dtype=torch.float64)
    inputs = [case["query"], case["key"]]
    # A gradient's terms are as large as a feature over the temperature, known to the rounding of the scores.
    score = math.prod(norms) / case["temperature"]
    terms = max(x.abs().max().item() for x in inputs) / case["temperature"] * max(1.0, score / 8)
    exact_gradients = torch.autograd.grad(expected @ weights, inputs)
    compare(torch.autograd.grad(got.double() @ weights, inputs), exact_gradients, dtype, terms)
    mean = info_nce(**case, tile=tile)
    plain = naive_losses(**case).mean()
    compare(torch.autograd.grad(mean, inputs), torch.autograd.grad(plain, inputs), dtype, terms)


def compare(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], dtype: torch.dtype, terms: float = 0.0) -> None:
    """Gradients agree to the rounding of `dtype`, relative to the largest entry.

    `terms` is the size of what a gradient sums: where it cancels, a few roundings of the accumulator stay.
    """
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    cancelled = 8 * torch.finfo(accumulator).eps * terms
    accuracy = {torch.float64: 1e-10, torch.float32: 2e-5}.get(dtype, 2 * torch.finfo(dtype).eps)
    for mine, plain in zip(got, expected, strict=True):
        assert mine.dtype == dtype
        largest = plain.abs().max().double().item() + 1e-3
        assert (mine.double() - plain.double()).abs().max().item() <= accuracy * largest + cancelled


@settings(max_examples=20, deadline=None)
@given(cases())
def test_lse_equals_the_plain_form(case: dict) -> None:
    query, key, exclude = case["query"].double(), case["key"].double(), case["exclude"]
    expected = naive_lse(query @ key.T / case["temperature"], exclude)
    got = lse(query, key, case["temperature"], exclude=exclude, tile=case["tile"])
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [0.5, 60.0])  # below and above the bound where the row maximum is subtracted
def test_lse_with_a_bias_of_each_key(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, bias = (torch.randn(*n, dtype=torch.float64, generator=generator) for n in ((9, 4), (13, 4), (13,)))
    bias = bias * size
    rule = Exclude(torch.arange(9), torch.arange(13), "equal")
    query.requires_grad_()
    expected = naive_lse(query @ key.T / 0.7 + bias, [rule])
    got = lse(query, key, 0.7, bias=bias, exclude=[rule], tile=4)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(x @ torch.linspace(-1, 1, 9).double(), query)[0] for x in (got, expected))
    )
    bias[1:] = -math.inf  # one key is left, and the rule takes it from anchor 0
    alone = lse(query, key, 0.7, bias=bias, exclude=[rule])
    assert alone[0] == -math.inf
    torch.testing.assert_close(alone[1:], query[1:] @ key[0] / 0.7 + bias[0])


def test_bad_bias() -> None:
    query, key = torch.zeros(3, 4), torch.zeros(5, 4)
    for bias in (torch.zeros(3), torch.zeros(5).long(), torch.zeros(5, device="meta")):
        with pytest.raises(VidsslError, match=r"bias: expected one floating-point number a key, \[5\]"):
            lse(query, key, bias=bias)
    with pytest.raises(VidsslError, match="bias: it gets no gradient"):
        lse(query, key, bias=torch.zeros(5, requires_grad=True))


def test_cross_entropy_is_the_special_case() -> None:
    query, key, positives = torch.randn(300, 16), torch.randn(500, 16), torch.randint(0, 500, (300,))
    temperature = torch.tensor(0.7, requires_grad=True)
    torch.testing.assert_close(
        info_nce(query, key, positives, temperature), F.cross_entropy(query @ key.T / temperature, positives)
    )


BAD = {
    "3 dims": ({"query": torch.zeros(2, 3, 4)}, r"\[N, D\] and \[M, D\]"),
    "other dim": ({"key": torch.zeros(5, 3)}, r"\[N, D\] and \[M, D\]"),
    "other dtype": ({"key": torch.zeros(5, 4, dtype=torch.float64)}, "expected the same one of"),
    "integers": ({"query": torch.zeros(3, 4).long(), "key": torch.zeros(5, 4).long()}, "expected the same one of"),
    "no keys": ({"key": torch.zeros(0, 4)}, "at least one row"),
    "other device": ({"key": torch.zeros(5, 4, device="meta")}, "expected one device"),
    "positives too many": ({"positives": torch.zeros(4, dtype=torch.int64)}, r"expected int64 \[3\]"),
    "positives int32": ({"positives": torch.zeros(3, dtype=torch.int32)}, r"expected int64 \[3\]"),
    "positive out of range": ({"positives": torch.tensor([0, 1, 5])}, "0 … 4 of the keys.*got 0 … 5"),
    "positive below -1": ({"positives": torch.tensor([0, 1, -2])}, "got -2 … 1"),
    "no positive": ({"positives": torch.tensor([[0, 1], [-1, -1], [2, -1]])}, "anchor 1 has none"),
    "temperature 0": ({"temperature": 0.0}, "above 0, got 0.0"),
    "temperature nan": ({"temperature": torch.tensor(math.nan)}, "above 0, got nan"),
    "temperature vector": ({"temperature": torch.ones(3)}, r"one number, got a tensor \(3,\)"),
    "reduction": ({"reduction": "sum"}, 'use "mean" or "none"'),
    "tile": ({"tile": 0}, "at least 1 anchor"),
    "rule length": ({"exclude": [Exclude(torch.arange(5), torch.arange(3), "equal")]}, "3 query labels and 5 key"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str) -> None:
    change, message = BAD[what]
    good = {"query": torch.zeros(3, 4), "key": torch.zeros(5, 4), "positives": torch.arange(3), "temperature": 1.0}
    with pytest.raises(VidsslError, match=message):
        info_nce(**{**good, **change})


def test_bad_rule() -> None:
    with pytest.raises(VidsslError, match='use "equal" or "different"'):
        Exclude(torch.arange(3), torch.arange(3), "same")  # type: ignore[arg-type]
    with pytest.raises(VidsslError, match="integer vector"):
        Exclude(torch.zeros(3), torch.arange(3), "equal")
