"""Pictures of evaluations: success by arm, learning curves, latency. The delay curves are in `lag_figure`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vidssl.checkpoint import replacing
from vidssl.scripts.report import in_order

COLOURS = {
    "random": "#c3c8d0",
    "random-encoder": "#8d99ae",
    "pixels": "#5c7ea3",
    "learned": "#d1495b",
    "expert": "#3f4a5a",
}
OTHERS = ("#e09f3e", "#2a9d8f", "#7b5ea7", "#b5651d", "#4c956c", "#9a6a8f")


def colours(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The colour of every arm in some evaluations."""
    arms = list(dict.fromkeys(arm for results in evaluations for arm in in_order(results["arms"])))
    own = [arm for arm in arms if arm not in COLOURS]
    return {arm: COLOURS.get(arm) or OTHERS[own.index(arm) % len(OTHERS)] for arm in arms}


def plot_success(evaluations: Sequence[Mapping[str, Any]], path: Path, titles: Sequence[str] = ()) -> None:
    """Success rates as bars with their 95 % intervals, one panel an evaluation; beside it the mean score, if any."""
    panels = [
        (results, measure, titles[index] if titles else title(results))
        for index, results in enumerate(evaluations)
        for measure in ("success_rate", *(["score"] if _scored(results) else []))
    ]
    rows = _rows([len(results["arms"]) for results, _, _ in panels])
    widths = [[len(panels[index][0]["arms"]) for index in row] for row in rows]
    size = (max(4.5, 1.0 + 1.05 * max(map(sum, widths))), 3.3 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    colour = colours(evaluations)
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, row, ratios in zip(parts, rows, widths, strict=True):
        for axes, index in zip(part.subplots(1, len(row), squeeze=False, width_ratios=ratios)[0], row, strict=True):
            results, measure, name = panels[index]
            _bars(axes, results, measure, colour)
            axes.set_title(name, fontsize=10)
            if index == row[0] or measure == "score" or panels[index - 1][1] == "score":
                label = "success rate" if measure == "success_rate" else "mean score"
                axes.set_ylabel(f"{label}, 95 % interval")
    save(figure, path)


def _rows(counts: Sequence[int], most: int = 14) -> list[list[int]]:
    """Indices of panels in rows of at most `most` bars (or of one panel)."""
    rows: list[list[int]] = []
    for index, count in enumerate(counts):
        if not rows or sum(counts[i] for i in rows[-1]) + count > most:
            rows.append([])
        rows[-1].append(index)
    return rows


def _scored(results: Mapping[str, Any]) -> bool:
    return any("score" in row for row in results["arms"].values())


def _bars(axes: Axes, results: Mapping[str, Any], measure: str, colour: Mapping[str, str]) -> None:
    arms = in_order(results["arms"])
    for x, arm in enumerate(arms):
        row = results["arms"][arm]
        if measure == "score":
            if "score" not in row:
                continue
            value, (low, high), text = row["score"]["mean"], row["score"]["interval_95"], f"{row['score']['mean']:.2f}"
        else:
            value, (low, high) = row["success_rate"], row["interval_95"]
            text = f"{row['successes']}/{row['episodes']}"
        axes.bar(x, value, width=0.65, color=colour[arm])
        axes.errorbar(x, value, [[max(value - low, 0)], [max(high - value, 0)]], color="black", capsize=4, linewidth=1)
        axes.text(x, min(high + 0.02, 1.02), text, ha="center", fontsize=9)
    axes.set_xticks(range(len(arms)), [_wrapped(arm) for arm in arms])
    axes.set_ylim(0, 1.1)
    _plain(axes)


def plot_curves(
    points: Mapping[str, Sequence[tuple[float, Mapping[str, Any]]]], label: str, path: Path, name: str
) -> None:
    """Success against what was spent, a line an arm with its 95 % band.

    Args:
        points: arm -> [(x, its row of `arms`), …], at least two.
        label: what x is.
        name: of the picture.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    own = [arm for arm in points if arm not in COLOURS]
    for arm, row in points.items():
        colour = COLOURS.get(arm) or OTHERS[own.index(arm) % len(OTHERS)]
        x = [at for at, _ in row]
        low, high = zip(*(one["interval_95"] for _, one in row), strict=True)
        axes.plot(x, [one["success_rate"] for _, one in row], "o-", color=colour, markersize=4, label=arm)
        axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
    every = sorted({x for row in points.values() for x, _ in row})
    if every[0] > 0 and every[-1] / every[0] >= 8:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(every, [f"{x:g}" for x in every])
    axes.set_ylim(0, 1.05)
    axes.set_xlabel(label)
    axes.set_ylabel("success rate, 95 % band")
    axes.set_title(name, fontsize=10)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    _plain(axes)
    save(figure, path)


def plot_latency(rows: Sequence[Mapping[str, Any]], path: Path, name: str) -> None:
    """Milliseconds of a controller step on a logarithmic axis, median as a bar and the 99th percentile as a mark.

    Args:
        rows: `encoder`, `form`, `p50_ms`, `p99_ms` each; bars are grouped by encoder.
        name: of the picture.
    """
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    forms = list(dict.fromkeys(row["form"] for row in rows))
    figure = Figure(figsize=(max(4.5, 1.5 + 0.5 * len(rows)), 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(forms)
    for index, form in enumerate(forms):
        chosen = [row for row in rows if row["form"] == form]
        x = np.array([encoders.index(row["encoder"]) for row in chosen]) + (index - (len(forms) - 1) / 2) * width
        axes.bar(x, [row["p50_ms"] for row in chosen], 0.9 * width, color=OTHERS[index % len(OTHERS)], label=form)
        axes.plot(x, [row["p99_ms"] for row in chosen], "_", color="black", markersize=9)
    axes.plot([], [], "_", color="black", markersize=9, label="p99")
    axes.axhline(10, color="#888888", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(encoders)), encoders)
    axes.set_yscale("log")
    axes.set_ylabel("ms a step: median")
    axes.set_title(name, fontsize=10)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    _plain(axes)
    save(figure, path)


def title(results: Mapping[str, Any]) -> str:
    """An evaluation in a few words."""
    demos = results["demonstrations"]
    return results["env"] + ("" if demos is None else f": {demos['episodes']} demonstrations")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the file appears whole, or not at all."""
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _wrapped(arm: str) -> str:
    """A long name on two lines, so that neighbours keep apart."""
    if len(arm) <= 11:
        return arm
    cut = min(
        (i for i, letter in enumerate(arm) if letter in "-_. "), key=lambda i: abs(i - len(arm) / 2), default=None
    )
    return arm if cut is None else f"{arm[: cut + 1]}\n{arm[cut + 1 :]}"
