"""How high an alarm's threshold has to be for a promised rate of false alarms, and what data can promise.

A monitor's statistic has a maximum m in every episode; the alarm goes off when m exceeds the threshold, and stays on
until the episode ends: at most one an episode. Split conformal prediction (Papadopoulos et al. 2002, "Inductive
Confidence Machines for Regression"; Lei et al. 2018) on whole episodes, since the steps of one are not exchangeable:

    n calibration episodes, usual ones, that nothing was fitted on, exchangeable with the next one
    threshold = k-th largest of their maxima          ->  P(next episode's alarm is false) <= k / (n + 1)
    k = floor(a (n + 1)),  a = rate x mean hours of an episode

So a rate of r an hour needs k >= 1: at least about 1/r hours of calibration episodes, whatever the monitor. With less
the largest maximum is taken, and the rate that it does promise is told. The promise is a mean over calibration sets;
for the one at hand the probability of a false alarm is distributed as Beta(k, n + 1 - k) (Vovk 2012, "Conditional
validity of inductive conformal predictors"), of which `likely` is the 90 % quantile.

What it does not say: anything about another controller, place, season or camera than the calibration episodes', nor
which corruptions are noticed.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vidssl.errors import VidsslError

CONFIDENCE = 0.9


@dataclass(frozen=True)
class Threshold:
    """A threshold on the statistic and what it promises.

    Attributes:
        value: alarm when the statistic is above it.
        rate: false alarms an hour that were asked for.
        promised: false alarms an hour, expected, at most; above `rate` when there were too few calibration episodes.
        likely: false alarms an hour that these calibration episodes stay below with 90 % confidence.
        episodes, hours: of calibration.
        rank: k, the threshold is the k-th largest maximum.
    """

    value: float
    rate: float
    promised: float
    likely: float
    episodes: int
    hours: float
    rank: int

    @property
    def kept(self) -> bool:
        """Whether the calibration episodes were enough to promise the rate that was asked for."""
        return self.promised <= self.rate

    def facts(self) -> dict[str, Any]:
        """Everything as JSON-able numbers."""
        return asdict(self)


def conformal_threshold(maxima: ArrayLike, steps: ArrayLike, fps: float, rate: float = 1.0) -> Threshold:
    """The threshold for at most `rate` false alarms an hour.

    Args:
        maxima: [n], the statistic's maximum in each calibration episode.
        steps: [n], the episodes' lengths.
        fps: steps a second.
        rate: false alarms an hour, above 0.

    Raises VidsslError for no episodes, maxima that are not finite, a rate or fps that is not positive.
    """
    from scipy.stats import beta  # type: ignore[import-untyped]

    m, lengths = np.asarray(maxima, float), np.asarray(steps, float)
    if m.ndim != 1 or m.shape != lengths.shape or len(m) == 0 or not np.isfinite(m).all() or (lengths <= 0).any():
        raise VidsslError(
            f"calibration: got maxima {m.shape} and lengths {lengths.shape}; pass one finite maximum and one length "
            "above 0 for each of at least one episode"
        )
    if not (rate > 0 and fps > 0):
        raise VidsslError(f"calibration: got a rate of {rate} an hour and {fps} steps a second; both must be above 0")
    n, hours = len(m), float(lengths.sum()) / fps / 3600
    each = hours / n
    rank = min(n, max(1, int(np.floor(rate * each * (n + 1) + 1e-9))))
    return Threshold(
        value=float(np.sort(m)[-rank]),
        rate=float(rate),
        promised=rank / (n + 1) / each,
        likely=float(beta.ppf(CONFIDENCE, rank, n + 1 - rank)) / each,
        episodes=n,
        hours=hours,
        rank=rank,
    )


def poisson_interval(count: int, hours: float, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a rate an hour of which `count` events were seen in `hours` (Garwood 1936).

    Raises VidsslError for a negative count or no time.
    """
    from scipy.stats import chi2

    if count < 0 or not hours > 0:
        raise VidsslError(
            f"poisson_interval: got {count} events in {hours} hours; needs a count from 0 on and some time"
        )
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(chi2.ppf(tail, 2 * count)) / 2
    return low / hours, float(chi2.ppf(1 - tail, 2 * count + 2)) / 2 / hours
