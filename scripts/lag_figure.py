"""Where driving from afar falls below driving on board, with an interval; the figure and the table of `lag-study`.

Letters: E episodes (the same layouts in every line), P delays.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.evaluate.intervals import group_draws

COLOURS = ("#5b6770", "#2a9d8f", "#e9a03b", "#7b5ea7", "#4f8fc0", "#a0522d")  # driven from afar
ON_BOARD = ("#d1495b", "#1b3a57", "#6a8532")
BOUNDS = ("delay", "low_95", "high_95")  # of a crossover, steps


def crossover(delays: Sequence[int], remote: NDArray[np.bool_], on_board: NDArray[np.bool_]) -> dict[str, float | None]:
    """The delay at which the success rate from afar first falls below the one on board.

    Rates between two delays are interpolated linearly. The interval is a percentile bootstrap (4000 resamples) over
    layouts, each drawn with its episodes of all lines and delays.

    Args:
        delays: [P] steps, rising.
        remote: [P,E] success at each delay.
        on_board: [E] success of the controller without lag.

    Returns:
        `delay`, `low_95`, `high_95` in steps: the smallest delay where the line is below from the start, None where it
        stays above up to the largest.
    """
    shares = group_draws(len(on_board)) / len(on_board)  # [resamples,E]
    found = [_first_below(delays, remote.mean(axis=1), float(on_board.mean()))]
    found += [
        _first_below(delays, rates, level) for rates, level in zip(shares @ remote.T, shares @ on_board, strict=True)
    ]
    low, high = np.percentile(found[1:], [2.5, 97.5], method="nearest")
    return {key: float(v) if np.isfinite(v) else None for key, v in zip(BOUNDS, (found[0], low, high), strict=True)}


def _first_below(delays: Sequence[int], rates: NDArray[np.float64], level: float) -> float:
    below = np.flatnonzero(rates < level - 1e-12)
    if len(below) == 0:
        return np.inf
    k = int(below[0])
    if k == 0:
        return float(delays[0])
    share = max(0.0, (rates[k - 1] - level) / (rates[k - 1] - rates[k]))
    return float(delays[k - 1] + share * (delays[k] - delays[k - 1]))


def says(found: Mapping[str, float | None], rate: float) -> str:
    """A crossover in words: "0.63 s (0.55 to 0.71)", "beyond" for None; `rate` steps a second."""
    values = (found[key] for key in BOUNDS)
    middle, low, high = (f"{value / rate:.2f}" if value is not None else "beyond" for value in values)
    return "not reached" if low == "beyond" else f"{middle} s ({low} to {high})"


def print_table(results: Mapping[str, Any]) -> None:
    """Successes of every line at every delay, and the crossovers."""
    from rich.console import Console
    from rich.table import Table

    lines, settings = results["lines"], results["settings"]
    delays = sorted({int(delay) for line in lines.values() for delay in line["points"]})
    table = Table(title=f"{settings['env']}: successes of {settings['episodes']} by round-trip delay in steps")
    table.add_column("line")
    for delay in delays:
        table.add_column(str(delay), justify="right")
    for name, line in lines.items():
        cells = [line["points"].get(str(delay)) for delay in delays]
        table.add_row(name, *(str(cell["successes"]) if cell else "" for cell in cells))
    console = Console(width=max(100, 30 + 6 * len(delays)))
    console.print(table)
    for pair, found in results["crossovers"].items():
        console.print(f"{pair}: {says(found, results['rate'])}")


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Two panels over the round-trip delay: success rates with Wilson bands, and seconds to the goal."""
    from matplotlib.figure import Figure

    from vidssl.checkpoint import replacing

    rate = results["rate"]
    figure = Figure(figsize=(10.4, 4.0), layout="constrained")
    success, time = figure.subplots(1, 2, width_ratios=(1.7, 1))
    colours = {True: iter(COLOURS * 9), False: iter(ON_BOARD * 9)}
    reach = max(1, *(int(delay) for line in results["lines"].values() for delay in line["points"])) / rate
    for name, line in sorted(results["lines"].items()):  # as read from a file: the same colours each time
        colour = next(colours[line["remote"]])
        delays = sorted(line["points"], key=int)
        at = [int(delay) / rate for delay in delays]
        points = [line["points"][delay] for delay in delays]
        rates = [point["success_rate"] for point in points]
        low, high = zip(*(point["interval_95"] for point in points), strict=True)
        steps = [point["steps_to_success"] for point in points]
        # Where few arrive, those are the near goals, and their time says nothing.
        seconds = [step / rate if step and share >= 0.5 else np.nan for step, share in zip(steps, rates, strict=True)]
        if line["remote"]:
            who = f"operator, {name}" if "operator" in line.get("source", {}) else name
            success.plot(at, rates, "o-", color=colour, markersize=3.5, label=who)
            success.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
            time.plot(at, seconds, "o-", color=colour, markersize=3.5)
        else:
            success.axhline(rates[0], color=colour, linestyle="--", linewidth=2, label=f"{name}, on board")
            success.axhspan(low[0], high[0], color=colour, alpha=0.13, linewidth=0)
            time.axhline(seconds[0], color=colour, linestyle="--", linewidth=2)
    _mark_crossovers(success, results)
    for axes, label in ((success, "success rate, 95 % band"), (time, "seconds to the goal, where half arrive")):
        axes.set_xlabel("round-trip delay, s")
        axes.set_ylabel(label)
        axes.set_xlim(0, reach)
        axes.spines[["top", "right"]].set_visible(False)
    success.set_ylim(0, 1.02)
    time.set_ylim(bottom=0)
    success.set_title(
        f"{results['settings']['env']}: {results['settings']['episodes']} test layouts a point", fontsize=10
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)


def _mark_crossovers(axes: Any, results: Mapping[str, Any]) -> None:
    """A dot at each crossover, with its interval along the delays."""
    rate, largest = results["rate"], max(int(d) for line in results["lines"].values() for d in line["points"])
    for pair, found in results["crossovers"].items():
        if not found["delay"]:
            continue
        level = results["lines"][pair.partition(" below ")[2]]["points"]["0"]["success_rate"]
        middle, low, high = (largest if found[key] is None else found[key] for key in BOUNDS)
        axes.errorbar(
            middle / rate,
            level,
            xerr=[[(middle - low) / rate], [(high - middle) / rate]],
            fmt="o",
            color="black",
            markersize=6,
            capsize=4,
            zorder=5,
        )
        axes.annotate(f"{middle / rate:.2f} s", (middle / rate, level), (6, 8), textcoords="offset points", fontsize=10)
