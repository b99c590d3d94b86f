"""Outcomes of episodes as numbers with intervals; comparisons are paired, layout by layout."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vidssl.errors import VidsslError
from vidssl.evaluate.intervals import group_bootstrap, paired_difference, wilson

from .rollout import EpisodeResult

SHARES = (0.95, 0.8)  # of the score, reported as the share of episodes that reach it


def summary(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Successes with a 95 % interval, mean return and length, failures by kind, and `score` where episodes have one.

    The interval is Wilson's. Where layouts occur more than once (several cloning seeds) their trials are not
    independent: when those of every layout agree, each layout counts as one trial, and otherwise whole layouts are
    resampled (cluster bootstrap).
    """
    success = np.array([result.success for result in results], float)
    seeds = [result.seed for result in results]
    kind, (low, high) = _rate_interval(success, seeds)
    row = {
        "episodes": len(results),
        "successes": int(success.sum()),
        "success_rate": float(success.mean()),
        "interval_95": [low, high],
        "interval": kind,
        "mean_return": float(np.mean([result.episode_return for result in results])),
        "mean_length": float(np.mean([result.length for result in results])),
        "failures": dict(sorted(Counter(result.failure for result in results if result.failure).items())),
    }
    if any(result.score is not None for result in results):
        row["score"] = _score_summary(results)
    return row


def _score_summary(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Mean score with a bootstrap interval over layouts, and shares; an episode that ended before its first step
    scores 0."""
    score = np.array([result.score or 0.0 for result in results])
    seeds = [result.seed for result in results]
    boot = group_bootstrap(score, seeds)
    shares = {}
    for least in SHARES:
        reached = (score >= least).astype(float)
        _, interval = _rate_interval(reached, seeds)
        shares[f"{least:g}"] = {"share": float(reached.mean()), "interval_95": list(interval)}
    return {"mean": boot.mean, "interval_95": [boot.low, boot.high], "at_least": shares}


def _rate_interval(hits: np.ndarray, seeds: Sequence[int]) -> tuple[str, tuple[float, float]]:
    if _independent(seeds):
        return "wilson", wilson(int(hits.sum()), len(hits))
    if (once := _one_a_layout(hits, seeds)) is not None:
        return "wilson over layouts", wilson(int(once.sum()), len(once))
    boot = group_bootstrap(hits, seeds)
    return "bootstrap over layouts", (boot.low, boot.high)


def _one_a_layout(hits: np.ndarray, seeds: Sequence[int]) -> np.ndarray | None:
    """0/1 of each layout when its trials all agree and layouts occur equally often; None when not."""
    _, layout = np.unique(seeds, return_inverse=True)
    count = np.bincount(layout)
    rate = np.bincount(layout, weights=hits) / count
    return rate if np.isin(rate, (0, 1)).all() and (count == count[0]).all() else None


def compare(a: Sequence[EpisodeResult], b: Sequence[EpisodeResult]) -> dict[str, float]:
    """Success rate of `a` minus that of `b`, with a paired 95 % interval over layouts and an exact p-value.

    With one trial a layout the interval is Newcombe's for pairs and the p-value McNemar's; with several, layouts are
    counted once or resampled as in `summary`, and the p-value is that of the sign-flip test over layouts (see
    `sign_flip_p`). An arm that ran its layouts once is paired with every round of one that ran them several times.

    Raises VidsslError when the two did not run the same layouts.
    """
    rounds = max(len(a), len(b))
    a, b = (list(results) * max(1, rounds // max(1, len(results))) for results in (a, b))
    seeds = [result.seed for result in a]
    if seeds != [result.seed for result in b]:
        raise VidsslError("the two controllers ran different layouts, so their episodes cannot be paired")
    x, y = (np.array([result.success for result in results], float) for results in (a, b))
    ones = [_one_a_layout(hits, seeds) for hits in (x, y)]
    if ones[0] is not None and ones[1] is not None:
        difference, low, high = paired_difference(ones[0], ones[1])
    else:
        boot = group_bootstrap(x - y, seeds)
        difference, low, high = boot.mean, boot.low, boot.high
    _, layout = np.unique(seeds, return_inverse=True)
    per_layout = np.bincount(layout, weights=x - y).round().astype(int)
    return {"difference": difference, "low_95": low, "high_95": high, "p": sign_flip_p(per_layout)}


def sign_flip_p(differences: Sequence[int] | np.ndarray) -> float:
    """Exact two-sided p-value of paired differences: how often random signs give a sum at least as far from 0.

    For differences of -1, 0 and 1 this is McNemar's exact test (binomial on the pairs that disagree).

    Args:
        differences: int [n], one a layout: successes of one arm minus those of the other.
    """
    sizes = np.abs(np.asarray(differences, int))
    chance = np.ones(1)  # of the sums -S..S, S growing by each size
    for size in sizes[sizes > 0]:
        wider = np.zeros(len(chance) + 2 * size)
        wider[: len(chance)] += chance / 2
        wider[2 * size :] += chance / 2
        chance = wider
    sums = np.abs(np.arange(len(chance)) - len(chance) // 2)
    return min(1.0, float(chance[sums >= abs(int(np.sum(differences)))].sum()))


def p_text(p: float) -> str:
    """A p-value for people: two digits, or a bound."""
    return f"{p:.2g}" if p >= 1e-4 else "< 1e-4"


def _independent(seeds: Sequence[int]) -> bool:
    return len(set(seeds)) == len(seeds)
