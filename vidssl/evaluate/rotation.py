"""How well estimators of rotation do on pairs of depth views: errors, percentiles, intervals, time, tables.

n pairs, c candidates of one answer. Angles in degrees.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidssl.errors import VidsslError
from vidssl.evaluate.intervals import wilson

if TYPE_CHECKING:
    from rich.table import Table

RIGHT = 5.0  # degrees: a pair counts as solved within


@dataclass(frozen=True)
class Answer:
    """What an estimator says of one pair."""

    rotation: NDArray[np.float32]
    """[3, 3], its choice"""
    candidates: NDArray[np.float32] | None = None
    """[c, 3, 3] what it chose from"""
    expected_error: float | None = None
    """degrees, by its own account"""


Estimate = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]], Answer]


@dataclass(frozen=True)
class Outcome:
    """An estimator's answers to n pairs."""

    errors: NDArray[np.float64]
    """[n] degrees"""
    transposed: NDArray[np.float64]
    """[n] degrees, from the inverse of the truth"""
    seconds: NDArray[np.float64]
    """[n]"""
    best: NDArray[np.float64] | None
    """[n] degrees, of each answer's best candidate"""
    expected: NDArray[np.float64] | None
    """[n] degrees, the estimator's own expectation"""


def rotation_errors(R: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """The angle in degrees [...] between rotations [..., 3, 3], exact to the last digits near 0 and 180.

    Raises:
        VidsslError: either isn't made of rotations.
    """
    import torch

    from vidssl.rotation.so3 import check_rotation, geodesic

    first, second = (
        torch.tensor(check_rotation(given, name), dtype=torch.float64)
        for given, name in ((R, "estimate"), (truth, "truth"))
    )
    found: NDArray[np.float64] = geodesic(first, second).rad2deg().numpy()
    return found


def run(
    estimate: Estimate,
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    R: NDArray[np.float32],
    K: NDArray[np.float64],
    advance: Callable[[], None] = lambda: None,
) -> Outcome:
    """Ask an estimator about each pair, after one untimed question.

    Args:
        estimate: called with two depth images [H, W] and K.
        a, b: [n, H, W] metres, n at least 1.
        R: [n, 3, 3] from view a to view b.
        K: [3, 3].
        advance: called after each pair.
    """
    estimate(a[0], b[0], K)
    answers, seconds = [], []
    for first, second in zip(a, b, strict=True):
        start = perf_counter()
        answers.append(estimate(first, second, K))
        seconds.append(perf_counter() - start)
        advance()
    chosen = np.stack([answer.rotation for answer in answers])
    best = [
        rotation_errors(answer.candidates, np.broadcast_to(truth, answer.candidates.shape)).min()
        for answer, truth in zip(answers, R, strict=True)
        if answer.candidates is not None
    ]
    expected = [answer.expected_error for answer in answers if answer.expected_error is not None]
    return Outcome(
        rotation_errors(chosen, R),
        rotation_errors(chosen, R.swapaxes(-1, -2)),
        np.array(seconds),
        np.array(best) if len(best) == len(answers) else None,
        np.array(expected) if len(expected) == len(answers) else None,
    )


def summarise(errors: ArrayLike, seconds: ArrayLike) -> dict[str, Any]:
    """Percentiles of errors [n] in degrees, the share within 5° with Wilson's 95 % interval, median milliseconds.

    Raises:
        VidsslError: no pairs, or numbers that aren't finite.
    """
    degrees, times = np.asarray(errors, dtype=float), np.asarray(seconds, dtype=float)
    if degrees.ndim != 1 or len(degrees) == 0 or not np.isfinite(degrees).all():
        raise VidsslError(f"summarise: expected finite errors [n] in degrees, n at least 1, got shape {degrees.shape}")
    right = int((degrees <= RIGHT).sum())
    return {
        "count": len(degrees),
        "median": float(np.median(degrees)),
        "p90": float(np.percentile(degrees, 90)),
        "mean": float(degrees.mean()),
        "within5": right / len(degrees),
        "within5_interval": list(wilson(right, len(degrees))),
        "ms": float(1000 * np.median(times)),
    }


def report(outcome: Outcome) -> dict[str, Any]:
    """`summarise`, and of an estimator with candidates: `oracle`, what picking the best of them would give, and
    `picked`, the share that it got right [of so many] where a right one was among them; and with expectations:
    `expected`, their mean, to be held against `mean`."""
    found = summarise(outcome.errors, outcome.seconds)
    if outcome.best is not None:
        found["oracle"] = summarise(outcome.best, outcome.seconds)
        present = outcome.best <= RIGHT
        right, count = int((present & (outcome.errors <= RIGHT)).sum()), int(present.sum())
        found["picked"] = right / count if count else None
        found["picked_of"] = count
    if outcome.expected is not None:
        found["expected"] = float(outcome.expected.mean())
    return found


def looks_transposed(outcomes: Sequence[Outcome]) -> bool:
    """Whether the given rotations seem to lead from b to a: of the estimators, the one that does best against either
    the rotations or their inverses does clearly better (Wilson intervals apart) against the inverses."""
    if not outcomes:
        return False
    shares = [[int((errors <= RIGHT).sum()) for errors in (o.errors, o.transposed)] for o in outcomes]
    given, inverse = max(shares, key=max)
    count = len(outcomes[0].errors)
    return wilson(inverse, count)[0] > wilson(given, count)[1]


def rotation_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> "Table":
    """The `report`s of estimators by name, as a table; a row more for what an oracle would pick."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("estimator", no_wrap=True)
    for name in ("median", "90 %", "mean", "≤ 5°", "95 % interval", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *_cells(row), f"{row['ms']:.1f}")
        if "oracle" in row:
            table.add_row("  its best candidate", *_cells(row["oracle"]), "", style="dim")
    return table


def notes(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line an estimator on its choice among candidates, and on the error that it expects of itself."""
    lines = []
    for name, row in rows.items():
        if row.get("picked") is not None:
            lines.append(
                f"{name}: picks a right candidate in {row['picked']:.2f} of {row['picked_of']} pairs that have one"
            )
        if "expected" in row:
            lines.append(f"{name}: expects {row['expected']:.2f}° in the mean, observed {row['mean']:.2f}°")
    return lines


def _cells(row: Mapping[str, Any]) -> list[str]:
    low, high = row["within5_interval"]
    degrees = [f"{row[name]:.2f}°" for name in ("median", "p90", "mean")]
    return [*degrees, f"{row['within5']:.2f}", f"{low:.2f}–{high:.2f}"]
