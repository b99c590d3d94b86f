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
from vidssl.evaluate.intervals import Bootstrap
from vidssl.evaluate.probes import ProbeResult, compare
from vidssl.evaluate.ridge import RidgeResult, compare_ridge

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
    """

    name: str
    baseline: bool
    parts: tuple[Row, ...] = ()
    facts: tuple[dict[str, Any], ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    encoder: str = ""

    @cached_property
    def row(self) -> Row | None:
        """The parts averaged; None when all failed."""
        return averaged(self.parts) if self.parts else None

    def fact(self, name: str) -> float | None:
        """The mean over seeds of something training cost; None for a baseline."""
        values = [facts[name] for facts in self.facts if facts.get(name) is not None]
        return float(np.mean(values)) if values else None


def write_row(path: Path, row: Row) -> None:
    """One row with all its out-of-fold predictions as .npz, whole and then renamed."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(row, name)) for name in ("name", "dim", "rankme")}
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
    )


def _plain(value: np.ndarray) -> Any:
    """Numbers and names as the results hold them; arrays of numbers stay."""
    if value.ndim == 0:
        return value.item()
    return tuple(value.tolist()) if value.dtype.kind == "U" else value


@dataclass(frozen=True)
class Standing:
    """How a method stands to the baselines on one probe: its lead over each, paired by item, 95 % over groups."""

    name: str
    score: float
    leads: dict[str, Bootstrap]

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
    rows = {entry.name: (entry.baseline, entry.row) for entry in entries}
    found: dict[str, list[Standing]] = {}
    for probe in RESULTS:
        results = {name: (base, getattr(row, probe)) for name, (base, row) in rows.items() if row is not None}
        baselines = {name: result for name, (base, result) in results.items() if base and result is not None}
        methods = {name: result for name, (base, result) in results.items() if not base and result is not None}
        if baselines and methods:
            lead = compare_ridge if probe == "ridge" else compare
            standing = [
                Standing(name, mine.mean, {other: lead(mine, theirs) for other, theirs in baselines.items()})
                for name, mine in methods.items()
            ]
            found[probe] = sorted(standing, key=lambda one: -one.score)
    return found


def verdicts(entries: Sequence[Entry]) -> list[str]:
    """Which methods are above all baselines, and which of them clearly: a few lines a probe."""
    lines = []
    for probe, standing in standings(entries).items():
        clear = [one.name for one in standing if one.clear]
        above = [one.name for one in standing if one.above and not one.clear]
        lines.append(
            f"{PROBES[probe]}: above all {len(standing[0].leads)} baselines, every 95 % interval excludes zero:"
            f" {', '.join(clear) or 'none'} ({len(clear)} of {len(standing)} methods)"
        )
        if above:
            lines.append(f"{PROBES[probe]}: above all baselines, not clearly: {', '.join(above)}")
        lines += [f"{PROBES[probe]}: {_behind(one)}" for one in standing if not one.above]
    return lines


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
            "leads": {probe: leads[entry.name, probe] for probe in RESULTS if (entry.name, probe) in leads},
        }
        for entry in entries
    ]


def _values(row: Row, targets: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"rankme": row.rankme, "dim": row.dim}
    for probe in ("linear", "knn"):
        if result := getattr(row, probe):
            values[probe] = {"mean": result.mean, "stderr": result.stderr, "balanced": result.balanced}
    if row.ridge:
        each = dict(zip(targets, row.ridge.per_target.tolist(), strict=True))
        values["ridge"] = {"mean": row.ridge.mean, "stderr": row.ridge.stderr, "targets": each}
    return values
