"""The collapse doctor: does a run collapse, how, and by what? From the numbers that it logs, and its settings if known.

    metrics line ──symptom──> constant | dimensional, in the embeddings or the features
                 ──causes───> a setting known to collapse, or what the numbers speak for
                 ──────────> Finding: step, evidence, advice; told once
                 ──verdict──> how it stands now: what `--doctor stop` asks, once EARLY of the budget is spent

Constant collapse: all inputs get one output, the spread goes to 0. Dimensional collapse: outputs differ, in a few
directions only, the effective rank goes to 1 (Hua et al. 2021, arXiv 2105.00470; Jing et al. 2022, arXiv 2110.09348).
Embeddings are what the loss compares (a projector's output), features are what the run exports; a projector can
collapse while the encoder before it still stands. Few directions behind the projector alone are a warning: the head is
thrown away, and what is exported is often as good as ever (MoCo at its defaults ends so on generated videos).

The thresholds below were set on runs of `python -m vidssl.scripts.bench_doctor` with seeds 0, 1 and 2: in runs that
stood the least over any five lines was 6.5 directions (3.6 for one of SwAV stuck at a guess), 0.31 of the largest
spread and 0.8 of the scale; in those that fell the most was 5.4, 0.28 and 0.1. They lean to the side of the fallen, so
that a sound run is not called collapsed; a run whose settings are known to collapse is met with less doubt. Features
that come nearer together in angle while they keep their directions are not collapsed as long as the embeddings stand:
a mean vector grows beside them, which no probe minds (`predict` ends so at its defaults; KEPT was set on the logs of
real trainings). Pure Python: reading a line takes microseconds.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import inf
from statistics import mean
from typing import Any, Literal

from vidssl.evaluate.causes import CAUSES, Collapse, Setting, Where, name_cause, series

__all__ = ["CAUSES", "Diagnosis", "Doctor", "Finding", "Setting", "diagnose"]

Line = Mapping[str, float]
Verdict = Literal["constant", "dimensional", "projector", "healthy", "unknown"]
SIDES: tuple[Where, ...] = ("embedding", "feature")

TRACKED = (*(f"{side}_{name}" for side in SIDES for name in ("spread", "rank")), "embedding_scale")
PATIENCE = 5  # lines in a row that must agree: batches differ, and a start may stumble
CONSTANT_SPREAD = 0.2  # unit outputs nearer together than this, having lost three quarters of the spread they once had
DIMENSIONAL_RANK = 5.0  # directions, having lost three quarters of those they once had
SUSPICION = 1.5  # times both limits where the setting is known to collapse: then less evidence will do
KEPT = 0.5  # of the directions that features once had: with so many left they aren't constant, see above
NEVER_SPREAD = 0.02  # unit outputs that were never further apart than this, and do not move apart
EARLY = 0.3  # share of a run's budget before which nothing is stopped: methods fall at their start and recover
DROWNS, UNMET = 0.8, 0.5  # a variance term's share of the loss, and its value, 1 where all outputs agree
SHRUNK = 0.2  # of the embeddings' largest scale, where terms of the loss, not a normalisation, are to hold it


@dataclass(frozen=True)
class Finding:
    """A collapse, told once.

    Attributes:
        step: when it was sure, `PATIENCE` logged lines after it began.
        kind: `"constant"` or `"dimensional"`.
        where: `"embedding"`, what the loss compares, or `"feature"`, what is exported.
        cause: a key of `CAUSES`, or None where nothing speaks for one.
        known: the cause is a setting of the run; False: inferred from the numbers.
        evidence: sentences with the numbers.
        advice: what to change.
        warning: the projector alone has few directions, and no setting known to collapse: no reason to stop.
    """

    step: int
    kind: Collapse
    where: Where
    cause: str | None
    known: bool
    evidence: tuple[str, ...]
    advice: str
    warning: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "evidence": list(self.evidence)}

    def text(self) -> str:
        """A few lines for a terminal."""
        place = "embeddings (projector)" if self.where == "embedding" else "features (encoder)"
        what = "warning, projector collapse: few directions" if self.warning else f"{self.kind} collapse"
        told = "no setting and no number speaks for one cause"
        if self.cause is not None:
            told = (
                f"{CAUSES[self.cause].what} ({'a setting of this run' if self.known else 'inferred from the numbers'})"
            )
        return "\n".join(
            [
                f"step {self.step}: {what} of the {place}",
                f"  likely cause: {told}",
                *(f"  - {sentence}" for sentence in self.evidence),
                f"  to do: {self.advice}",
            ]
        )


@dataclass(frozen=True)
class Diagnosis:
    """What a whole run's lines say.

    Attributes:
        verdict: `"constant"`, `"dimensional"`, `"projector"` (a warning: see `Finding`) or `"healthy"`, as of the last
            lines; `"unknown"`: too few numbers.
        findings: in order; one that is not the verdict at the end has been recovered from.
        notes: what is missing, or worth knowing.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


class Doctor:
    """Reads a run's metrics line by line.

    Args:
        setting: the run's method and options, where they are known.
    """

    def __init__(self, setting: Setting | None = None) -> None:
        self.setting = setting
        self.known = setting is not None and setting.ablation() is not None
        self.limit = SUSPICION if self.known else 1.0
        self.lines: list[Line] = []
        self.told: set[tuple[str, str]] = set()
        self._tracks: dict[str, Track] = {}

    def read(self, line: Line) -> list[Finding]:
        """The findings that this line makes sure of, none twice. Lines without `feature_spread` are passed over."""
        if "feature_spread" not in line:
            return []
        self.lines.append(line)
        for name in TRACKED:
            if name in line:
                self._tracks.setdefault(name, Track(line[name])).add(line[name])
        found = []
        for where in SIDES:
            kind = self._symptom(where)
            if kind is None or (where, kind) in self.told or (where, "constant") in self.told:
                continue
            self.told.add((where, kind))
            found.append(self._finding(where, kind))
        return found

    @property
    def verdict(self) -> Verdict:
        """How the run stands at the last line read."""
        if len(self.lines) < PATIENCE:
            return "unknown"
        embedding, feature = (self._symptom(where) for where in SIDES)
        if "constant" in (embedding, feature):
            return "constant"
        if feature is not None or (embedding is not None and self.known):
            return "dimensional"
        return "projector" if embedding is not None else "healthy"

    @property
    def collapsed(self) -> bool:
        """Whether the run stands so badly that it may as well end."""
        return self.verdict in ("constant", "dimensional")

    def _symptom(self, where: Where) -> Collapse | None:
        terms = sum(name.startswith("share_") for name in self.lines[-1])
        return symptom(self._tracks, where, self.limit, terms)

    def _finding(self, where: Where, kind: Collapse) -> Finding:
        cause, known, reasons, advice = name_cause(self.lines, where, kind, self.setting)
        words = _symptom_in_words(self.lines, where, kind, self.limit)
        other: Where = "feature" if where == "embedding" else "embedding"
        evidence = (*words, *_other_side(self.lines, other, self._symptom(other)), *reasons)
        warning = self.verdict == "projector"
        return Finding(int(self.lines[-1]["step"]), kind, where, cause, known, evidence, advice, warning)


def diagnose(lines: Iterable[Line], setting: Setting | None = None) -> Diagnosis:
    """All findings over a run's lines, and how it ended.

    Args:
        lines: of `metrics.jsonl`, each with `step`.
        setting: the run's method and options, None to judge by the numbers alone.
    """
    doctor = Doctor(setting)
    everything = list(lines)
    findings = tuple(finding for line in everything for finding in doctor.read(line))
    if not doctor.lines:
        has = "it has rankme, the effective rank of exported features, only" if _has(everything, "rankme") else ""
        missing = "no feature_spread and feature_rank in its metrics: written by an older vidssl, or its method does "
        return Diagnosis("unknown", (), tuple(filter(None, (missing + "not log vidssl.core.monitor.health", has))))
    if len(doctor.lines) < PATIENCE:
        few = f"{len(doctor.lines)} lines with health metrics so far, it takes {PATIENCE}"
        return Diagnosis("unknown", (), (few,))
    notes = []
    if not _has(doctor.lines, "embedding_spread"):
        notes.append("the method logs no embeddings: only what it exports is judged")
    verdict = doctor.verdict
    notes += _drowned(doctor.lines, setting)
    if findings and verdict == "healthy":
        notes.append("the run recovered by its end")
    if verdict == "healthy" and setting is not None and (ablation := setting.ablation()) is not None:
        notes.append(f"its setting, {ablation.name}, is known to collapse ({ablation.collapse}); it has not so far")
    return Diagnosis(verdict, findings, tuple(notes))


@dataclass
class Track:
    """What is remembered of a number that is logged: its first value, its largest, the last `PATIENCE`, how many."""

    first: float
    peak: float = -inf
    count: int = 0
    recent: deque[float] = field(default_factory=partial(deque, maxlen=PATIENCE))

    def add(self, value: float) -> None:
        """One more."""
        self.peak, self.count = max(self.peak, value), self.count + 1
        self.recent.append(value)

    @property
    def patient(self) -> bool:
        """Whether there are enough to judge by."""
        return self.count >= PATIENCE


def symptom(tracks: Mapping[str, Track], where: Where, limit: float = 1.0, terms: int = 0) -> Collapse | None:
    """What the last `PATIENCE` lines agree on.

    Args:
        tracks: of the numbers `TRACKED`, those that are logged.
        where: which side.
        limit: multiplies the thresholds.
        terms: of the loss, as the last line has them.
    """
    spread, rank = (tracks.get(f"{where}_{name}") for name in ("spread", "rank"))
    if spread is None or not spread.patient:
        return None
    fallen = max(spread.recent) < limit * min(CONSTANT_SPREAD, spread.peak / 4)
    if fallen and not (where == "feature" and _shifted(tracks, limit, terms)):
        return "constant"
    if where == "embedding" and terms > 1 and _shrunk(tracks):
        return "constant"
    if spread.peak < NEVER_SPREAD and spread.count >= 2 * PATIENCE and spread.recent[-1] <= spread.first:
        return "constant"
    if rank is not None and rank.patient and max(rank.recent) < limit * min(DIMENSIONAL_RANK, rank.peak / 4):
        return "dimensional"
    return None


def _shifted(tracks: Mapping[str, Track], limit: float, terms: int) -> bool:
    """Whether features kept their directions, and embeddings stand: only their common mean has grown."""
    rank = tracks.get("feature_rank")
    kept = rank is not None and rank.patient and min(rank.recent) >= KEPT * rank.peak
    return kept and symptom(tracks, "embedding", limit, terms) != "constant"


def _shrunk(tracks: Mapping[str, Track]) -> bool:
    scale = tracks.get("embedding_scale")
    return scale is not None and scale.patient and max(scale.recent) < SHRUNK * scale.peak


def _drowned(lines: Sequence[Line], setting: Setting | None) -> list[str]:
    """A hinge on deviations that is never nearly met: it takes most of the loss, whatever else is asked for."""
    half = lines[len(lines) // 2 :]  # the first half is for getting there
    share, term = series(half, "share_variance"), series(half, "term_variance")
    if not share or not term or mean(share) <= DROWNS or min(term) <= UNMET:
        return []
    told = (
        f"one term drowns the others: variance is {mean(share):.2g} of the loss from step {int(half[0]['step'])} on,"
        f" and term_variance never below {min(term):.2g} of 1: deviations stay far from their target"
    )
    dim = None if setting is None else setting.options.get("dim")
    clips = None if setting is None else setting.batch_size
    if dim is not None and clips is not None and dim >= clips:
        return [
            f"{told}; {clips} clips vary in {clips - 1} directions at most, and {dim} dims are to be apart: fewer dims"
            f" (--options dim=…, now {dim}), or a larger --batch-size"
        ]
    return [f"{told}; lower its weight (--options variance=…), or train longer"]


def _symptom_in_words(lines: Sequence[Line], where: Where, kind: Collapse, limit: float) -> list[str]:
    name, threshold = f"{where}_rank", limit * min(DIMENSIONAL_RANK, max(series(lines, f"{where}_rank")) / 4)
    if kind == "constant":
        spread = series(lines, f"{where}_spread")
        name, threshold = f"{where}_spread", limit * min(CONSTANT_SPREAD, max(spread) / 4)
        if max(spread) < NEVER_SPREAD:
            threshold = NEVER_SPREAD
        elif max(spread[-PATIENCE:]) >= threshold:
            name, threshold = "embedding_scale", SHRUNK * max(series(lines, "embedding_scale"))
    values = series(lines, name)
    since, now = int(lines[-PATIENCE]["step"]), int(lines[-1]["step"])
    peak = max(range(len(values)), key=values.__getitem__)
    return [
        f"{name} at most {max(values[-PATIENCE:]):.3g} from step {since} to {now} (limit {threshold:.3g}), "
        f"{values[peak]:.3g} at step {int(lines[peak]['step'])}"
    ]


def _other_side(lines: Sequence[Line], other: Where, kind: Collapse | None) -> list[str]:
    """How the encoder stands when the projector fell, and the other way round: `kind` is what it shows."""
    rank, spread = (series(lines, f"{other}_{name}") for name in ("rank", "spread"))
    if not rank or not spread:
        return []
    subject = "the encoder before the projector" if other == "feature" else "what the loss compares"
    return [
        f"{subject} {'has not collapsed' if kind is None else 'has collapsed too'}: {other}_rank {rank[-1]:.3g} "
        f"({max(rank):.3g} at most), {other}_spread {spread[-1]:.3g} ({max(spread):.3g} at most)"
    ]


def _has(lines: Sequence[Line], name: str) -> bool:
    return any(name in line for line in lines)
