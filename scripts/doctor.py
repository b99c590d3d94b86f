"""Tell whether runs collapsed, how, and why, from what they logged.

Reads metrics.jsonl and config.json of every RUN; prints the verdict, its evidence and what to change, and draws them
into RUN/doctor.png: the loss, how far outputs scatter (spread) and in how many directions (rank), the terms of the
loss, with the moment of collapse marked. Constant collapse: all inputs get one output. Dimensional: outputs differ in a
few directions only. "Embeddings" are what the loss compares, "features" what the run exports; few directions of the
embeddings alone are a warning.

Example:

    vidssl doctor runs/mine

The exit status is 1 when a run ended collapsed, otherwise 0. `vidssl pretrain --doctor stop` asks the same while it
trains.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vidssl.errors import VidsslError
from vidssl.evaluate.doctor import Diagnosis, Setting, diagnose
from vidssl.scripts.settings import Flag

PANELS = (  # title, metrics of the panel, fixed limits
    ("loss", ("loss",), None),
    ("spread: 0 when all agree, 1 when they cancel out", ("embedding_spread", "feature_spread"), (0.0, 1.05)),
    ("effective rank: directions in use", ("embedding_rank", "feature_rank"), (0.0, None)),
)
COLOURS = ("#d1495b", "#30638e", "#edae49", "#00798c", "#8d6a9f", "#666666")


@dataclass
class Config:
    """See the text above."""

    runs: tyro.conf.Positional[Annotated[list[Path], tyro.conf.arg(metavar="RUN ...", help_behavior_hint="")]]
    """run folders, written by `vidssl pretrain`"""
    numbers_only: Flag = False
    """judge by the logged numbers alone, as if the method and its options were not known"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    config = tyro.cli(Config, args=argv, prog="vidssl doctor", description=__doc__)
    if not config.runs:
        raise VidsslError("no run given; pass the --out folder of a `vidssl pretrain`, or several")
    verdicts = [examine(run, config.numbers_only).verdict for run in config.runs]
    return int(any(verdict in ("constant", "dimensional") for verdict in verdicts))


def examine(run: Path, numbers_only: bool = False) -> Diagnosis:
    """Diagnose a run folder, print it and draw `run/doctor.png`.

    Raises:
        VidsslError: not a run folder, or one that has logged nothing.
    """
    from vidssl.checkpoint import read_config, read_metrics

    setting = Setting.of(read_config(run))
    lines = read_metrics(run)
    if not lines:
        where = run / "metrics.jsonl"
        raise VidsslError(f"{where}: nothing logged yet; the first line comes after the first step of training")
    diagnosis = diagnose(lines, None if numbers_only else setting)
    print("\n".join(report(run, lines, diagnosis, setting)))
    draw(lines, diagnosis, f"{run.name}: {diagnosis.verdict}", run / "doctor.png")
    return diagnosis


def report(run: Path, lines: list[dict[str, Any]], diagnosis: Diagnosis, setting: Setting | None) -> list[str]:
    """What is printed."""
    said = {
        "healthy": "no collapse",
        "unknown": "cannot tell",
        "constant": "CONSTANT COLLAPSE: all inputs get nearly one output",
        "dimensional": "DIMENSIONAL COLLAPSE: outputs differ in a few directions only",
        "projector": "warning, projector collapse: few directions behind the projector, the features before it stand",
    }[diagnosis.verdict]
    method = f" ({setting.method})" if setting is not None else ""
    told = [f"{run}{method}, {int(lines[-1]['step'])} steps: {said}"]
    last = {name: value for line in lines for name, value in line.items()}
    first = {name: value for line in reversed(lines) for name, value in line.items()}
    names = [name for _, panel, _ in PANELS for name in panel if name in last]
    told.append("  " + ", ".join(f"{name} {first[name]:.3g} -> {last[name]:.3g}" for name in names))
    told += [f"  {line}" for finding in diagnosis.findings for line in finding.text().splitlines()]
    told += [f"  note: {note}" for note in diagnosis.notes]
    return [*told, f"  drawn in {run / 'doctor.png'}"]


def draw(lines: list[dict[str, Any]], diagnosis: Diagnosis, title: str, path: Path) -> None:
    """Loss, spreads, ranks and terms over the steps; a finding is a dashed line at the step that made sure of it."""
    from matplotlib.figure import Figure

    from vidssl.checkpoint import replacing

    figure = Figure(figsize=(10, 6.2), layout="constrained")
    terms = sorted({name for line in lines for name in line if name.startswith(("term_", "assignment_", "energy_"))})
    panels = [*PANELS, ("terms of the loss, and other numbers of the method", tuple(terms), None)]
    for axes, (heading, names, limits) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for colour, name in zip(COLOURS, names, strict=False):
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                mark = "." if len(points) < 20 else None
                axes.plot(*zip(*points, strict=True), color=colour, label=name, marker=mark)
        drawn = bool(axes.lines)
        if not drawn:
            axes.text(0.5, 0.5, "none logged", ha="center", transform=axes.transAxes, color="#666666")
            axes.set_axis_off()
        elif names == tuple(terms) and min(line[name] for line in lines for name in names if name in line) > 0:
            axes.set_yscale("log")
        for finding in diagnosis.findings if drawn else ():
            axes.axvline(finding.step, color="black", linestyle="--", linewidth=1)
            told = f" {finding.kind}: {finding.where}"
            place = axes.get_xaxis_transform()
            axes.text(finding.step, 0.98, told, transform=place, rotation=90, va="top", ha="right", fontsize=7)
        if drawn and limits is not None:
            axes.set_ylim(*limits)
        if drawn and heading != "loss":
            axes.legend(fontsize=7, frameon=False)
        axes.set_title(heading, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
