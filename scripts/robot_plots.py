"""Pictures of evaluations: success by arm, learning curves, delay curves, latency."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vidssl.checkpoint import replacing

COLOURS = {
    "random": "#c3c8d0",
    "random-encoder": "#8d99ae",
    "pixels": "#5c7ea3",
    "learned": "#d1495b",
    "expert": "#3f4a5a",
}
OTHERS = ("#e09f3e", "#2a9d8f", "#7b5ea7", "#b5651d", "#4c956c", "#9a6a8f")


def colours(arms: Sequence[str]) -> dict[str, str]:
    """The colour of each arm; the same arm has the same colour in every picture with these arms."""
    own = [arm for arm in arms if arm not in COLOURS]
    return {arm: COLOURS.get(arm) or OTHERS[own.index(arm) % len(OTHERS)] for arm in arms}


def plot_success(evaluations: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Success rates as bars with their 95 % intervals, one panel an evaluation."""
    counts = [len(results["arms"]) for results in evaluations]
    figure = Figure(figsize=(max(4.0, 1.0 + 1.15 * sum(counts)), 3.4), layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False, sharey=True, width_ratios=counts)[0]
    colour = colours(list(dict.fromkeys(arm for results in evaluations for arm in results["arms"])))
    for axes, results in zip(panels, evaluations, strict=True):
        for x, (arm, row) in enumerate(results["arms"].items()):
            rate, (low, high) = row["success_rate"], row["interval_95"]
            axes.bar(x, rate, width=0.65, color=colour[arm])
            axes.errorbar(x, rate, [[max(rate - low, 0)], [max(high - rate, 0)]], color="black", capsize=4, linewidth=1)
            axes.text(x, min(high + 0.02, 1.02), f"{row['successes']}/{row['episodes']}", ha="center", fontsize=9)
        axes.set_xticks(range(len(results["arms"])), list(results["arms"]))
        axes.set_ylim(0, 1.1)
        axes.set_title(title(results), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("success rate, 95 % interval")
    save(figure, path)


def title(results: Mapping[str, Any]) -> str:
    """An evaluation in a few words."""
    demos = results["demonstrations"]
    return results["env"] + ("" if demos is None else f": {demos['episodes']} demonstrations")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the file appears whole, or not at all."""
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)
