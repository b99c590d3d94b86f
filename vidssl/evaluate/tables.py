"""How an evaluation is shown: a table, a bar plot and JSON, all from the same rows. The first row is the run's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vidssl.evaluate.arms import Row
from vidssl.evaluate.intervals import Bootstrap
from vidssl.evaluate.probes import ProbeResult, compare
from vidssl.evaluate.ridge import RidgeResult, compare_ridge

RANKS = ("RankMe", "rank, centred")


def class_table(rows: Sequence[Row]) -> Table:
    """Accuracies of the linear and nearest-neighbour probes, and by how much the first row leads each other one."""
    table = Table(caption="± standard error and [95 % interval]: bootstrap over groups; lead = first row - this row")
    table.add_column("features")
    for name in ("linear", "balanced", "lead, linear", "10-NN", "lead, 10-NN", *RANKS, "dim"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if not (row.linear and row.knn and rows[0].linear and rows[0].knn):
            raise ValueError("class_table needs rows that were judged with labels")
        first = row is rows[0]
        table.add_row(
            row.name,
            f"{row.linear.mean:.3f} ± {row.linear.stderr:.3f}",
            f"{row.linear.balanced:.3f}",
            "" if first else _interval(compare(rows[0].linear, row.linear)),
            f"{row.knn.mean:.3f} ± {row.knn.stderr:.3f}",
            "" if first else _interval(compare(rows[0].knn, row.knn)),
            *_ranks(row),
            str(row.dim),
        )
    return table


def target_table(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """R² of ridge regression, their mean and each target's, and by how much the first row's mean leads."""
    table = Table(caption="R² out of fold; ± standard error and [95 % interval]: bootstrap over groups")
    table.add_column("features")
    for name in ("ridge R²", "lead", *names, *RANKS, "dim"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if row.ridge is None or rows[0].ridge is None:
            raise ValueError("target_table needs rows that were judged with targets")
        each = [f"{value:.3f}" for value in row.ridge.per_target]
        table.add_row(
            row.name,
            f"{row.ridge.mean:.3f} ± {row.ridge.stderr:.3f}",
            "" if row is rows[0] else _interval(compare_ridge(rows[0].ridge, row.ridge)),
            *each,
            *_ranks(row),
            str(row.dim),
        )
    return table


def _ranks(row: Row) -> tuple[str, str]:
    return f"{row.rankme:.1f}", "" if row.rank_centred is None else f"{row.rank_centred:.1f}"


def widest(table: Table) -> int:
    """Columns of a terminal that the table needs to show everything on one line."""
    console = Console(width=10_000)
    return console.measure(table).maximum


def verdict(rows: Sequence[Row]) -> list[str]:
    """One line a probe: which baselines the first row is above, and against which its whole interval is above zero."""
    lines = []
    for probe, leads in _leads(rows).items():
        above = [name for name, lead in leads.items() if lead.mean > 0]
        clear = [name for name, lead in leads.items() if lead.low > 0]
        lines.append(
            f"{probe}: {rows[0].name} is above {len(above)} of {len(leads)} baselines ({', '.join(above) or 'none'});"
            f" the 95 % interval of its lead excludes zero for {', '.join(clear) or 'none'}"
        )
    return lines


def _leads(rows: Sequence[Row]) -> dict[str, dict[str, Bootstrap]]:
    """By probe and row: the first row's result minus that row's."""
    leads = {
        probe: {row.name: compare(results[0], other) for row, other in zip(rows[1:], results[1:], strict=True)}
        for probe, results in _probes(rows).items()
    }
    if first := rows[0].ridge:
        leads["ridge R²"] = {row.name: compare_ridge(first, row.ridge) for row in rows[1:] if row.ridge}
    return leads


def plot(rows: Sequence[Row], path: Path) -> None:
    """A PNG: a bar a row and probe, ± standard error; the dashed line is chance (the largest class)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    probes = _probes(rows)
    panels = list(probes) + (["ridge R²"] if rows[0].ridge else [])
    figure = Figure(figsize=(1.5 + 3.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    colours = ["#c44e52"] + ["#8c9bb0"] * (len(rows) - 1)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        results: list[Any] = probes.get(panel) or [row.ridge for row in rows]
        heights, errors = [result.mean for result in results], [result.stderr for result in results]
        bars = axes.bar(range(len(rows)), heights, yerr=errors, color=colours, capsize=4, width=0.65)
        axes.bar_label(bars, labels=[f"{height:.3f}" for height in heights], label_type="center", color="white")
        axes.set_xticks(range(len(rows)), [row.name.replace(" ", "\n") for row in rows], fontsize=8)
        axes.set_title(panel, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if panel in probes:
            axes.axhline(results[0].chance, ls="--", lw=1, color="black")
            axes.set_ylim(0, 1)
            axes.set_ylabel("accuracy")
        else:
            axes.axhline(0, lw=1, color="black")
    figure.savefig(path, format="png", dpi=150)


def as_json(rows: Sequence[Row], targets: Sequence[str]) -> list[dict[str, Any]]:
    """The rows as plain values: mean, standard error, balanced accuracy, scores [seeds][folds], lead of the first."""
    found = []
    for row in rows:
        entry: dict[str, Any] = {"features": row.name, "dim": row.dim}
        entry |= {"rankme": row.rankme, "rank_centred": row.rank_centred}
        for name, mine, first in (("linear", row.linear, rows[0].linear), ("knn", row.knn, rows[0].knn)):
            if mine and first:
                entry[name] = _accuracy(mine) | (
                    {} if row is rows[0] else {"lead_of_first": vars(compare(first, mine))}
                )
        if row.ridge:
            entry["ridge_r2"] = _r2(row.ridge, targets)
            if row is not rows[0] and rows[0].ridge:
                entry["ridge_r2"]["lead_of_first"] = vars(compare_ridge(rows[0].ridge, row.ridge))
        found.append(entry)
    return found


def _probes(rows: Sequence[Row]) -> dict[str, list[ProbeResult]]:
    linear = [row.linear for row in rows if row.linear]
    knn = [row.knn for row in rows if row.knn]
    return ({"linear": linear} if linear else {}) | ({"10-NN": knn} if knn else {})


def _interval(lead: Bootstrap) -> str:
    return f"{lead.mean:+.3f} [{lead.low:+.2f}, {lead.high:+.2f}]"


def _accuracy(result: ProbeResult) -> dict[str, Any]:
    return {
        "mean": result.mean,
        "stderr": result.stderr,
        "balanced": result.balanced,
        "scores": result.scores.tolist(),
    }


def _r2(result: RidgeResult, targets: Sequence[str]) -> dict[str, Any]:
    each = dict(zip(targets, result.per_target.tolist(), strict=True))
    return {"mean": result.mean, "stderr": result.stderr, "targets": each, "scores": result.scores.tolist()}
