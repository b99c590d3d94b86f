"""Many methods beside the same baselines: what was measured of each, and which are above all baselines.

n items (videos), S training seeds of a method.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vidssl.checkpoint import replacing
from vidssl.evaluate.arms import Row, averaged
from vidssl.evaluate.intervals import Bootstrap, over_seeds
from vidssl.evaluate.probes import ProbeResult, drawn_lead
from vidssl.evaluate.ridge import RidgeResult, drawn_ridge_lead

RESULTS: dict[str, type] = {"linear": ProbeResult, "knn": ProbeResult, "ridge": RidgeResult}
PROBES = {"linear": "linear", "knn": "10-NN", "ridge": "R²"}  # as tables call them


@dataclass(frozen=True)
class Entry:
    """A line of a comparison.

    Attributes:
        name: the method's label, or the baseline's name.
        baseline: whether it is one.
        parts: the probes of each training seed; of a baseline one, averaged over its untrained networks.
        facts: of each part, what training cost.
        failures: why seeds are missing.
        encoder: the network, as its untrained line names it; "" for a baseline.
        starts: of each part, the same network with the weights it began from; None where those were not probed.
    """

    name: str
    baseline: bool
    parts: tuple[Row, ...] = ()
    facts: tuple[dict[str, Any], ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    encoder: str = ""
    starts: tuple[Row | None, ...] = ()

    @cached_property
    def row(self) -> Row | None:
        """The parts averaged; None when all failed."""
        return averaged(self.parts) if self.parts else None

    def fact(self, name: str) -> float | None:
        """The mean over seeds of something training cost; None for a baseline."""
        values = [facts[name] for facts in self.facts if facts.get(name) is not None]
        return float(np.mean(values)) if values else None

    @property
    def gains(self) -> dict[str, Bootstrap]:
        """By probe, what training added to each part's own start, on average: seed for seed, item for item."""
        pairs = [(part, start) for part, start in zip(self.parts, self.starts, strict=False) if start is not None]
        parts, starts = [part for part, _ in pairs], [start for _, start in pairs]
        return {probe: lead(probe, parts, starts) for probe in RESULTS if pairs and getattr(parts[0], probe)}


def lead(probe: str, mine: Sequence[Row], theirs: Sequence[Row]) -> Bootstrap:
    """How far the rows of S training seeds are above the S they are paired with: a mean over seeds.

    Groups are resampled, and with two seeds or more the seeds as well.
    """
    drawn = drawn_ridge_lead if probe == "ridge" else drawn_lead
    pairs: list[tuple[Any, Any]] = [(getattr(a, probe), getattr(b, probe)) for a, b in zip(mine, theirs, strict=True)]
    mean = float(np.mean([a.mean - b.mean for a, b in pairs]))
    return Bootstrap.of(mean, over_seeds([drawn(a, b) for a, b in pairs]))


def write_row(path: Path, row: Row) -> None:
    """One row with all its out-of-fold predictions as .npz, whole and then renamed."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(row, name)) for name in ("name", "dim", "rankme")}
    if row.rank_centred is not None:
        arrays["rank_centred"] = np.asarray(row.rank_centred)
    for probe in RESULTS:
        result = getattr(row, probe)
        if result is not None:
            arrays |= {f"{probe}.{part.name}": np.asarray(getattr(result, part.name)) for part in fields(result)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_row(path: Path) -> Row:
    """What `write_row` wrote."""
    with np.load(path, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}

    def result(probe: str) -> Any:
        if f"{probe}.mean" not in arrays:
            return None
        return RESULTS[probe](**{part.name: _plain(arrays[f"{probe}.{part.name}"]) for part in fields(RESULTS[probe])})

    return Row(
        str(arrays["name"]),
        int(arrays["dim"]),
        float(arrays["rankme"]),
        result("linear"),
        result("knn"),
        result("ridge"),
        float(arrays["rank_centred"]) if "rank_centred" in arrays else None,
    )


def _plain(value: np.ndarray) -> Any:
    """Numbers and names as the results hold them; arrays of numbers stay."""
    if value.ndim == 0:
        return value.item()
    return tuple(value.tolist()) if value.dtype.kind == "U" else value


@dataclass(frozen=True)
class Standing:
    """How a method stands to the baselines on one probe: its lead over each, paired by item, 95 % over groups.

    `seeds` are the trainings behind it: of one, no interval knows how much another would differ.
    """

    name: str
    score: float
    leads: dict[str, Bootstrap]
    seeds: int

    @property
    def closest(self) -> str:
        """The baseline it leads by least."""
        return min(self.leads, key=lambda name: self.leads[name].mean)

    @property
    def above(self) -> bool:
        """Better than every baseline."""
        return all(lead.mean > 0 for lead in self.leads.values())

    @property
    def clear(self) -> bool:
        """Better than every baseline, and no interval reaches zero."""
        return all(lead.low > 0 for lead in self.leads.values())


def standings(entries: Sequence[Entry]) -> dict[str, list[Standing]]:
    """By probe, every method's standing to all baselines, the best method first."""
    found: dict[str, list[Standing]] = {}
    for probe in RESULTS:
        judged = [entry for entry in entries if entry.row is not None and getattr(entry.row, probe) is not None]
        baselines = {entry.name: entry.row for entry in judged if entry.baseline and entry.row is not None}
        standing = []
        for entry in judged:
            if not entry.baseline and baselines:
                count = len(entry.parts)
                leads = {name: lead(probe, entry.parts, [row] * count) for name, row in baselines.items()}
                standing.append(Standing(entry.name, getattr(entry.row, probe).mean, leads, count))
        if standing:
            found[probe] = sorted(standing, key=lambda one: -one.score)
    return found


def verdicts(entries: Sequence[Entry]) -> list[str]:
    """Which methods are above all baselines, which of them clearly, and which above their start: lines a probe."""
    gains = {entry.name: entry.gains for entry in entries}
    lines = []
    for probe, standing in standings(entries).items():
        clear = [one.name for one in standing if one.clear]
        above = [one.name for one in standing if one.above and not one.clear]
        lines.append(
            f"{PROBES[probe]}: above all {len(standing[0].leads)} baselines, every 95 % interval excludes zero:"
            f" {', '.join(clear) or 'none'} ({len(clear)} of {len(standing)} methods; {_seeds(standing)})"
        )
        if above:
            lines.append(f"{PROBES[probe]}: above all baselines, not clearly: {', '.join(above)}")
        lines += [f"{PROBES[probe]}: {_behind(one)}" for one in standing if not one.above]
        gain = {one.name: gains[one.name][probe] for one in standing if probe in gains[one.name]}
        better = [name for name, one in gain.items() if one.low > 0]
        worse = [name for name, one in gain.items() if one.high < 0]
        if gain:
            lines.append(
                f"{PROBES[probe]}: above their own start, the interval excludes zero: {', '.join(better) or 'none'};"
                f" below it: {', '.join(worse) or 'none'} (of {len(gain)} methods)"
            )
    return lines


def _seeds(standing: Sequence[Standing]) -> str:
    counts = sorted({one.seeds for one in standing})
    told = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"training seeds behind each: {told}"


def _behind(one: Standing) -> str:
    lead = one.leads[one.closest]
    return f"{one.name} is not above {one.closest}: {lead.mean:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"


def as_json(entries: Sequence[Entry], targets: Sequence[str]) -> list[dict[str, Any]]:
    """The lines as plain values: pooled and by seed, with every method's lead over every baseline."""
    leads = {
        (one.name, probe): {name: vars(lead) for name, lead in one.leads.items()}
        for probe, standing in standings(entries).items()
        for one in standing
    }
    return [
        {
            "name": entry.name,
            "baseline": entry.baseline,
            "encoder": entry.encoder,
            "failures": entry.failures,
            "seeds": [
                {**facts, **_values(part, targets)}
                for facts, part in zip(entry.facts or ({},) * len(entry.parts), entry.parts, strict=True)
            ],
            **(_values(entry.row, targets) if entry.row else {}),
            "training_seeds": 0 if entry.baseline else len(entry.parts),
            "leads": {probe: leads[entry.name, probe] for probe in RESULTS if (entry.name, probe) in leads},
            "gain_over_own_start": {probe: vars(gain) for probe, gain in entry.gains.items()},
        }
        for entry in entries
    ]


def _values(row: Row, targets: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"rankme": row.rankme, "rank_centred": row.rank_centred, "dim": row.dim}
    for probe in ("linear", "knn"):
        if result := getattr(row, probe):
            values[probe] = {"mean": result.mean, "stderr": result.stderr, "balanced": result.balanced}
    if row.ridge:
        each = dict(zip(targets, row.ridge.per_target.tolist(), strict=True))
        values["ridge"] = {"mean": row.ridge.mean, "stderr": row.ridge.stderr, "targets": each}
    return values
