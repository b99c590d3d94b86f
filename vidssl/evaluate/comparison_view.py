"""How a comparison is shown: a table on the terminal, the same as Markdown, and a plot. The best method comes first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from vidssl.evaluate.comparison import PROBES, Entry, standings

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


def cells(entries: Sequence[Entry], targets: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The table's header and its lines. ± is the standard error over groups; with seeds, their range follows."""
    rows = [(entry, entry.row) for entry in ordered(entries)]
    probes = [probe for probe in PROBES if any(row is not None and getattr(row, probe) for _, row in rows)]
    leads = {(one.name, probe): one.leads for probe, standing in standings(entries).items() for one in standing}
    header = ["features"]
    for probe in probes:
        header += [PROBES[probe], "clear of"] if leads else [PROBES[probe]]
    header += [*(targets if len(targets) > 1 else []), "RankMe", *COST]
    lines = []
    for entry, row in rows:
        if row is None:
            lines.append([entry.name, *([f"failed: {next(iter(entry.failures.values()))}"]), *[""] * (len(header) - 2)])
            continue
        line = [entry.name + (f" ({len(entry.failures)} seeds failed)" if entry.failures else "")]
        for probe in probes:
            line.append(_score(entry, probe))
            if leads:
                mine = leads.get((entry.name, probe), {})
                line.append(f"{sum(lead.low > 0 for lead in mine.values())}/{len(mine)}" if mine else "")
        if len(targets) > 1 and row.ridge:
            line += [f"{value:.3f}" for value in row.ridge.per_target]
        line.append(f"{row.rankme:.1f}")
        line += ["" if (value := entry.fact(name)) is None else show(value) for name, show in COST.values()]
        lines.append(line)
    return header, lines


def _score(entry: Entry, probe: str) -> str:
    result: Any = getattr(entry.row, probe)
    if result is None:
        return ""
    text = f"{result.mean:.3f} ± {result.stderr:.3f}"
    seeds = [getattr(part, probe).mean for part in entry.parts]
    return f"{text} ({min(seeds):.3f} to {max(seeds):.3f})" if len(seeds) > 1 else text


CAPTION = (
    "± standard error, bootstrap over groups (of all seeds together), and the range of the training seeds; clear of:"
    " over how many baselines the paired 95 % interval of the lead excludes zero; memory: peak, of the process on the"
    " CPU (the cache's pages and the libraries included), of torch's allocator on CUDA; clips/s, steps, min: of the"
    " training loop"
)


def table(entries: Sequence[Entry], targets: Sequence[str]) -> Table:
    """For a terminal."""
    header, lines = cells(entries, targets)
    shown = Table(caption=CAPTION)
    for number, name in enumerate(header):
        shown.add_column(name, justify="right" if number else "left", overflow="fold")
    for number, line in enumerate(lines):
        last = (
            number + 1 < len(lines) and ordered(entries)[number + 1].baseline and not ordered(entries)[number].baseline
        )
        shown.add_row(*line, end_section=last)
    return shown


def markdown(entries: Sequence[Entry], targets: Sequence[str]) -> str:
    """The same, to paste."""
    header, lines = cells(entries, targets)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines)) + f"\n\n{CAPTION}.\n"


def plot(entries: Sequence[Entry], path: Path) -> None:
    """A PNG: a panel a probe, a bar a line ± standard error, dots for training seeds; dashed, the best baseline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [(entry, entry.row) for entry in reversed(ordered(entries))]
    probes = [probe for probe in PROBES if any(row is not None and getattr(row, probe) for _, row in shown)]
    figure = Figure(figsize=(2 + 3.4 * max(1, len(probes)), 1 + 0.32 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, probe in zip(
        figure.subplots(1, max(1, len(probes)), sharey=True, squeeze=False)[0], probes, strict=False
    ):
        results = [(entry, getattr(row, probe) if row is not None else None) for entry, row in shown]
        for place, (entry, result) in enumerate(results):
            if result is None:
                continue
            colour = "#8c9bb0" if entry.baseline else "#c44e52"
            axes.barh(place, result.mean, xerr=result.stderr, color=colour, capsize=3, height=0.7)
            if len(entry.parts) > 1:
                seeds = [getattr(part, probe).mean for part in entry.parts]
                axes.plot(seeds, [place] * len(seeds), "o", color="black", markersize=3)
        best = max((result.mean for entry, result in results if entry.baseline and result is not None), default=None)
        if best is not None:
            axes.axvline(best, ls="--", lw=1, color="black")
        axes.set_yticks(range(len(shown)), [entry.name for entry, _ in shown], fontsize=8)
        axes.set_title(PROBES[probe] + (", accuracy" if probe != "ridge" else " of ridge regression"), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if probe != "ridge":
            axes.set_xlim(left=min(0.9 * results[0][1].chance if results[0][1] else 0, 1))
        else:
            axes.set_xlim(left=max(-0.2, min(0.0, *(result.mean for _, result in results if result is not None))))
    figure.savefig(path, format="png", dpi=130)
