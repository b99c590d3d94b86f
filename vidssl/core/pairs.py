"""What is asked of a table of scores: which pairs are positives, which are left out, how many rows at a time. Checked.

N anchors (queries), M keys, P positives an anchor, D feature dim.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vidssl.errors import VidsslError

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Exclude:
    """A rule that takes pairs (anchor i, key j) out of the denominator, by integer labels (video, time, rank, …).

    Args:
        query: integer [N], a label an anchor.
        key: integer [M], a label a key.
        when: `"equal"` leaves out pairs whose labels agree, `"different"` those whose labels differ.

    Raises:
        VidsslError: labels are not integer vectors, or `when` is another word.
    """

    query: Tensor
    key: Tensor
    when: Literal["equal", "different"]

    def __post_init__(self) -> None:
        if self.when not in ("equal", "different"):
            raise VidsslError(f'Exclude: when={self.when!r}; use "equal" or "different"')
        for name, labels in (("query", self.query), ("key", self.key)):
            if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
                raise VidsslError(
                    f"Exclude: expected {name} labels as an integer vector, got {labels.dtype} {tuple(labels.shape)}"
                )


class Rules(NamedTuple):
    """Exclusions packed: labels [rules, N] and [rules, M] of one type; bit r of `equal` for a rule on equal labels."""

    query: Tensor
    key: Tensor
    equal: int

    @property
    def number(self) -> int:
        return len(self.query)

    def apply_(self, scores: Tensor, rows: slice) -> None:
        """Set the excluded scores of a block [R, M] to −∞."""
        for place, (query, key) in enumerate(zip(self.query, self.key, strict=True)):
            compare = torch.eq if self.equal >> place & 1 else torch.ne
            scores.masked_fill_(compare(query[rows, None], key[None]), -math.inf)


@dataclass(frozen=True)
class Pairs:
    """What is asked of the scores, apart from the features."""

    temperature: Tensor  # no dimensions, on the features' device; float64, or the type of a learned one
    rows: int  # anchors whose scores are held at once
    rules: Rules
    positives: Tensor | None = None  # int64 [N, P]; padding replaced by a positive of the same row
    share: Tensor | None = None  # float [N, P]: 1/|P(i)|, 0 for padding
    bias: Tensor | None = None  # [M], added to every anchor's scores, in the type of sums; −∞ takes a key out


def make_pairs(
    query: Tensor,
    key: Tensor,
    temperature: float | Tensor,
    positives: Tensor | None,
    exclude: Sequence[Exclude],
    tile: int | None,
    bias: Tensor | None = None,
) -> Pairs:
    """Check everything against everything; see `info_nce` for the arguments and errors.

    Numbers that only the device knows (positives out of range, a temperature's value) are not looked at while
    `torch.compile` traces or a CUDA graph is captured.
    """
    _check_features(query, key)
    tau = _check_temperature(temperature, query)
    rules = _check_rules(exclude, query, key)
    rows = _rows(tile, query, key)
    if positives is None:
        return Pairs(tau, rows, rules, bias=None if bias is None else _check_bias(bias, key))
    return Pairs(tau, rows, rules, *_check_positives(positives, query, key))


def sum_type(features: Tensor) -> torch.dtype:
    """The type sums over these features are made in."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _rows(tile: int | None, query: Tensor, key: Tensor) -> int:
    """Enough for efficient products, few enough that the scores stay in cache (CPU) or small beside memory (CUDA)."""
    if tile is not None:
        if tile < 1:
            raise VidsslError(f"tile: expected at least 1 anchor a block, got {tile}")
        return tile
    most, scores = (256, 2**21) if query.device.type == "cpu" else (2048, 2**26)
    return min(most, max(128, scores // len(key)))


def _check_features(query: Tensor, key: Tensor) -> None:
    got = f"got {query.dtype} {tuple(query.shape)} and {key.dtype} {tuple(key.shape)}"
    if query.ndim != 2 or key.ndim != 2 or query.shape[1] != key.shape[1]:
        raise VidsslError(f"query and key: expected [N, D] and [M, D], {got}; flatten clips and times into rows first")
    if 0 in query.shape or 0 in key.shape:
        raise VidsslError(f"query and key: expected at least one row and one dim each, {got}")
    if query.dtype != key.dtype or query.dtype not in FLOATS:
        raise VidsslError(f"query and key: expected the same one of {', '.join(map(str, FLOATS))}, {got}")
    if query.device != key.device:
        raise VidsslError(f"query and key: expected one device, got {query.device} and {key.device}")


def _looks(tensor: Tensor) -> bool:
    """Whether values may be read back to be checked."""
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def _check_temperature(temperature: float | Tensor, query: Tensor) -> Tensor:
    """The temperature as a tensor without dimensions beside the features."""
    if not isinstance(temperature, Tensor):
        _check_positive(float(temperature))
        return torch.full((), float(temperature), dtype=torch.float64, device=query.device)
    if temperature.numel() != 1:
        raise VidsslError(f"temperature: expected one number, got a tensor {tuple(temperature.shape)}")
    if _looks(temperature):
        _check_positive(temperature.detach().item())
    return temperature.reshape(()).to(query.device)


def _check_positive(tau: float) -> None:
    if not 0 < tau < math.inf:
        raise VidsslError(
            f"temperature: expected a finite number above 0, got {tau}; a learned one needs its logarithm"
        )


def _check_rules(exclude: Sequence[Exclude], query: Tensor, key: Tensor) -> Rules:
    """int32 labels where every type fits into it, else int64."""
    for rule in exclude:
        if (len(rule.query), len(rule.key)) != (len(query), len(key)):
            raise VidsslError(
                f"exclude: expected {len(query)} query labels and {len(key)} key labels, "
                f"got {len(rule.query)} and {len(rule.key)}"
            )
        if not rule.query.device == rule.key.device == query.device:
            raise VidsslError(
                f"exclude: labels on {rule.query.device} and {rule.key.device}, features on {query.device}; "
                "move the labels to the features' device"
            )
    labels = [side for rule in exclude for side in (rule.query, rule.key)]
    short = all(x.dtype == torch.int32 or x.dtype.itemsize < 4 for x in labels)
    kind = torch.int32 if short else torch.int64
    packed = (
        query.new_empty((len(exclude), len(query)), dtype=kind),
        query.new_empty((len(exclude), len(key)), dtype=kind),
    )
    if exclude:
        packed = (
            torch.stack([rule.query.to(kind) for rule in exclude]),
            torch.stack([rule.key.to(kind) for rule in exclude]),
        )
    return Rules(*packed, sum(1 << place for place, rule in enumerate(exclude) if rule.when == "equal"))


def _check_range(positives: Tensor, count: Tensor, m: int) -> None:
    low, high = (int(extreme) for extreme in torch.stack(positives.aminmax()).tolist())
    if low < -1 or high >= m:
        raise VidsslError(f"positives: expected indices 0 … {m - 1} of the keys, or −1 for none, got {low} … {high}")
    if low < 0 and not bool(count.all()):
        first = int((count[:, 0] == 0).nonzero()[0])
        raise VidsslError(f"positives: anchor {first} has none; leave such anchors out of query and positives")


def _check_bias(bias: Tensor, key: Tensor) -> Tensor:
    if bias.shape != key.shape[:1] or not bias.is_floating_point() or bias.device != key.device:
        raise VidsslError(
            f"bias: expected one floating-point number a key, [{len(key)}] on {key.device}, "
            f"got {bias.dtype} {tuple(bias.shape)} on {bias.device}"
        )
    if bias.requires_grad and torch.is_grad_enabled():
        raise VidsslError("bias: it gets no gradient here, but requires one; pass bias.detach()")
    return bias.detach().to(sum_type(key)).contiguous()


def _check_positives(positives: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Positives [N, P] without padding, and each one's share [N, P] of its anchor's mean."""
    n, m = len(query), len(key)
    if positives.dtype != torch.int64 or positives.ndim not in (1, 2) or len(positives) != n or 0 in positives.shape:
        raise VidsslError(
            f"positives: expected int64 [{n}] or [{n}, P], got {positives.dtype} {tuple(positives.shape)}"
        )
    if positives.device != query.device:
        raise VidsslError(f"positives: on {positives.device}, features on {query.device}; move them there")
    positives = positives.reshape(n, -1)
    real = positives >= 0
    count = real.sum(1, keepdim=True)
    if _looks(positives):
        _check_range(positives, count, m)
    # A padding −1 becomes the row's largest index with share 0, so that it can be gathered and written like the others.
    return torch.where(real, positives, positives.amax(1, keepdim=True)), real.to(sum_type(query)) / count
