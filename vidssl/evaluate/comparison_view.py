"""How a comparison is shown: a table on the terminal, the same as Markdown, and a plot. The best method comes first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from vidssl.evaluate.comparison import PROBES, Entry, standings
from vidssl.evaluate.intervals import Bootstrap

COST = {  # what training cost, as the table calls it: the fact's name and how a number is written
    "params M": ("parameters", lambda value: f"{value / 1e6:.2f}"),
    "memory MiB": ("memory_mib", lambda value: f"{value:.0f}"),
    "clips/s": ("clips_per_second", lambda value: f"{value:.1f}"),
    "steps": ("steps", lambda value: f"{value:.0f}"),
    "min": ("minutes", lambda value: f"{value:.1f}"),
}


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Methods by their score on the last probe there is (targets before classes), failed ones after, then baselines."""

    def score(entry: Entry) -> float:
        row = entry.row
        result = row and (row.ridge or row.linear)
        return result.mean if result else float("-inf")

    return sorted(entries, key=lambda entry: (entry.baseline, -score(entry)))


def cells(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """The main table's header and lines. ± is the standard error over groups; with seeds, their range follows."""
    probes = [probe for probe in PROBES if any(entry.row and getattr(entry.row, probe) for entry in entries)]
    leads = {(one.name, probe): one.leads for probe, standing in standings(entries).items() for one in standing}
    header = [
        "features",
        "network",
        *(name for probe in probes for name in (PROBES[probe], "clear of", "gain over its own start")),
        "seeds",
        "RankMe",
        "rank, centred",
        *COST,
    ]
    lines = []
    for entry in ordered(entries):
        if entry.row is None:
            lines.append([entry.name, entry.encoder, "failed", *[""] * (len(header) - 3)])
            continue
        line = [entry.name + (f" ({len(entry.failures)} failed)" if entry.failures else ""), entry.encoder]
        gains = entry.gains
        for probe in probes:
            mine = leads.get((entry.name, probe), {})
            clear = f"{sum(lead.low > 0 for lead in mine.values())}/{len(mine)}" if mine else ""
            line += [_score(entry, probe), clear, _interval(gains.get(probe))]
        cost = ((entry.fact(name), show) for name, show in COST.values())
        rank = "" if entry.row.rank_centred is None else f"{entry.row.rank_centred:.1f}"
        line += ["" if entry.baseline else str(len(entry.parts)), f"{entry.row.rankme:.1f}", rank]
        lines.append([*line, *("" if value is None else show(value) for value, show in cost)])
    return header, lines


def target_cells(entries: Sequence[Entry], targets: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """R² of each target: header and lines; no lines where there is one target at most."""
    shown = [(entry.name, entry.row.ridge) for entry in ordered(entries) if entry.row and entry.row.ridge]
    lines = [[name, *(f"{value:.3f}" for value in ridge.per_target)] for name, ridge in shown]
    return ["R² of", *targets], lines if len(targets) > 1 else []


def _score(entry: Entry, probe: str) -> str:
    result: Any = getattr(entry.row, probe)
    if result is None:
        return ""
    text = f"{result.mean:.3f} ± {result.stderr:.3f}"
    seeds = [getattr(part, probe).mean for part in entry.parts]
    return f"{text} ({min(seeds):.3f} to {max(seeds):.3f})" if len(seeds) > 1 else text


def _interval(gain: Bootstrap | None) -> str:
    return "" if gain is None else f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


CAPTION = (
    "± standard error, bootstrap over groups (of all seeds together), and the range of the training seeds; clear of:"
    " over how many baselines the paired 95 % interval of the lead excludes zero; gain: over the same network with the"
    " untrained weights that the seed began from, mean of the seeds below --random-encoders; intervals: percentile"
    " bootstrap over groups, with two training seeds or more over seeds as well, a little short where either are few"
    " (with 20 groups 93 % for 95); RankMe: of features as they are, where a mean that dominates hides the rest; rank,"
    " centred: the same without the mean; memory: peak, of the process on the"
    " CPU (the cache's pages and the libraries included), of torch's allocator on CUDA; clips/s, steps, min: of the"
    " training loop"
)


def tables(entries: Sequence[Entry], targets: Sequence[str]) -> list[Table]:
    """For a terminal: the main one, and the targets' where there are several."""
    baselines = {entry.name for entry in entries if entry.baseline}
    shown = []
    for (header, lines), caption in ((cells(entries), CAPTION), (target_cells(entries, targets), None)):
        if lines:
            table = Table(caption=caption)
            for number, name in enumerate(header):
                table.add_column(name, justify="right" if number else "left", no_wrap=True)
            methods = sum(line[0] not in baselines for line in lines)
            for number, line in enumerate(lines, 1):
                table.add_row(*line, end_section=number == methods)
            shown.append(table)
    return shown


def failures(entries: Sequence[Entry]) -> list[str]:
    """A line a failed training: why."""
    return [f"failed: {name}: {reason}" for entry in entries for name, reason in entry.failures.items()]


def markdown(entries: Sequence[Entry], targets: Sequence[str]) -> str:
    """The same, to paste."""
    written = []
    for header, lines in (cells(entries), target_cells(entries, targets)):
        if lines:
            rule = ["---", *["---:"] * (len(header) - 1)]
            written.append("\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines)))
    return "\n\n".join([*written, f"{CAPTION}."]) + "\n"


def plot(entries: Sequence[Entry], path: Path) -> None:
    """A PNG: a panel a probe, a bar a line ± standard error, dots for training seeds; dashed, the best baseline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = ordered(entries)[::-1]  # bars are drawn from below
    probes = [probe for probe in PROBES if any(entry.row and getattr(entry.row, probe) for entry in shown)]
    figure = Figure(figsize=(2 + 3.4 * max(1, len(probes)), 1 + 0.32 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(1, len(probes)), sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(shown)), [entry.name for entry in shown], fontsize=8)
    for axes, probe in zip(panels, probes, strict=False):
        _panel(axes, shown, probe)
    figure.savefig(path, format="png", dpi=130)


def _panel(axes: Any, shown: Sequence[Entry], probe: str) -> None:
    results = {place: getattr(entry.row, probe) for place, entry in enumerate(shown) if entry.row}
    results = {place: result for place, result in results.items() if result is not None}
    for place, result in results.items():
        colour = "#8c9bb0" if shown[place].baseline else "#c44e52"
        axes.barh(place, result.mean, xerr=result.stderr, color=colour, capsize=3, height=0.7)
        seeds = [getattr(part, probe).mean for part in shown[place].parts]
        if len(seeds) > 1:
            axes.plot(seeds, [place] * len(seeds), "o", color="black", markersize=3)
    baselines = [result.mean for place, result in results.items() if shown[place].baseline]
    if baselines:
        axes.axvline(max(baselines), ls="--", lw=1, color="black")
    worst = min(result.mean - 2 * result.stderr for result in results.values())
    if probe == "ridge":
        axes.set_xlim(left=max(-0.2, min(0.0, worst)))
        axes.set_title("R² of ridge regression, mean of the targets", fontsize=10)
    else:
        chance = next(iter(results.values())).chance
        axes.set_xlim(left=max(0.0, min(chance, worst) - 0.02))
        axes.set_title(f"{PROBES[probe]}, accuracy (chance {chance:.2f})", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
