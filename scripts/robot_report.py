"""One page about evaluations of robots: success, learning curves, delays, latency.

Example:

    vidssl robot-report runs/rover/eval runs/rover/eval-20-demos runs/rover runs/lag --out runs/rover/report

Each folder holds one or more of results.json (`vidssl robot-eval`), lag.json (`vidssl lag-study`), latency.json
(`rows` of encoder, form, p50_ms, p99_ms) and metrics.jsonl (`vidssl pretrain`). Evaluations of one environment that
differ in their demonstrations, or in the time that pretraining took, are drawn as learning curves. --out gets the
pictures as PNG and report.html, which holds them all and can be moved and sent.
"""

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from vidssl.errors import VidsslError

FILES = ("results.json", "lag.json", "latency.json", "metrics.jsonl")
PREPARED = ("robot-eval", "lag-study", "pretrain")


@dataclass(frozen=True)
class Config:
    folders: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER ...")]]
    """folders with results.json, lag.json, latency.json or metrics.jsonl"""
    out: Path = Path("robot-report")
    """folder for report.html and the pictures"""


@dataclass
class Found:
    """What the folders hold, by the folder's name."""

    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    lags: dict[str, dict[str, Any]] = field(default_factory=dict)
    latencies: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainings: dict[str, Path] = field(default_factory=dict)


def main(argv: list[str] | None = None) -> None:
    """The `vidssl robot-report` command."""
    run(tyro.cli(Config, args=argv, prog="vidssl robot-report", description=__doc__))


def run(config: Config) -> Path:
    """Write the report; returns the path of report.html.

    Raises VidsslError for folders that hold none of the files, and files of another kind.
    """
    from vidssl.scripts.report import write_page

    found = read(config.folders)
    parts = ["<h1>Robots that judge the features</h1>"]
    for env in dict.fromkeys(results["env"] for results in found.evaluations.values()):
        named = {name: results for name, results in found.evaluations.items() if results["env"] == env}
        named = dict(sorted(named.items(), key=lambda item: _demonstrations(item[1]) or 0))
        parts += _environment(env, named, config.out)
    parts += _others(found, config.out)
    page = write_page(config.out / "report.html", "vidssl robot-report", parts)
    print(f"{len(list(config.out.glob('*.png')))} pictures in {config.out}; open {page}")
    return page


def read(folders: Sequence[Path]) -> Found:
    """What the folders hold; raises VidsslError for one that holds nothing known."""
    found = Found()
    if not folders:
        raise VidsslError(f"name at least one folder that holds one of {', '.join(FILES)}")
    names = _names(folders)
    for folder in folders:
        if not any((folder / file).is_file() for file in FILES):
            raise VidsslError(f"{folder} holds none of {', '.join(FILES)}; pass the --out folder of {_commands()}")
        name = names[folder]
        for file, kept, needed in (
            ("results.json", found.evaluations, ("env", "arms", "paired", "demonstrations")),
            ("lag.json", found.lags, ("lines", "crossovers", "rate", "settings")),
            ("latency.json", found.latencies, ("rows",)),
        ):
            if (folder / file).is_file():
                kept[name] = read_json(folder / file, needed)
        if name in found.lags:
            _unsort(found.lags[name])
        if (folder / "metrics.jsonl").is_file():
            found.trainings[name] = folder / "metrics.jsonl"
    return found


def _unsort(lag: dict[str, Any]) -> None:
    """Put delays and intervals back in order: a JSON file has its keys sorted as words."""
    for line in lag["lines"].values():
        line["points"] = dict(sorted(line["points"].items(), key=lambda point: int(point[0])))
    for pair, at in lag["crossovers"].items():
        lag["crossovers"][pair] = {key: at[key] for key in ("delay", "low_95", "high_95")}


def _commands() -> str:
    return ", ".join(f"`vidssl {command}`" for command in PREPARED)


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Short names: the folder's own, with as many above it as it takes to tell them apart."""
    paths = list(dict.fromkeys(folders))
    for depth in range(1, max(len(path.resolve().parts) for path in paths) + 1):
        names = ["/".join(path.resolve().parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(paths, names, strict=True))


def read_json(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """The object in a JSON file; raises VidsslError for a damaged one, and one without the keys `needed`."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        missing = [key for key in needed if key not in content]
    except (ValueError, TypeError) as error:
        raise VidsslError(f"{path} is damaged ({error}); make it again") from None
    if missing:
        raise VidsslError(f"{path} is of another kind: it lacks {', '.join(missing)}; pass folders of {_commands()}")
    return content


def _environment(env: str, named: Mapping[str, Mapping[str, Any]], out: Path) -> list[str]:
    """The part of the page about one environment."""
    from vidssl.scripts.report import arms_table, figure
    from vidssl.scripts.robot_plots import plot_curves, plot_success

    slug = re.sub(r"\W+", "-", env).strip("-").lower()
    parts = [f"<h2>{html.escape(env)}</h2>"]
    bars = out / f"success-{slug}.png"
    titles = [_title(name, results) for name, results in named.items()]
    plot_success(list(named.values()), bars, titles)
    parts.append(figure(bars, f"{env}: success by arm on layouts no demonstration shows, 95 % intervals"))
    for label, spent in SPENT.items():
        points = _curves(list(named.values()), spent)
        if points:
            path = out / f"{'demonstrations' if 'demo' in label else 'pretraining'}-{slug}.png"
            plot_curves(points, label, path, env)
            parts.append(figure(path, f"{env}: success against {label}, 95 % bands"))
    for name, results in named.items():
        parts += [f"<h3>{html.escape(_title(name, results))}</h3>", arms_table(results)]
        parts += [f"<p>{html.escape(note)}</p>" for note in results.get("notes", [])]
        facts = {key: results[key] for key in ("seed", "cloning_seeds", "size", "versions") if key in results}
        parts.append(
            f"<details><summary>settings</summary><pre>{html.escape(json.dumps(facts, indent=2))}</pre></details>"
        )
    return parts


def _title(name: str, results: Mapping[str, Any]) -> str:
    demos = results["demonstrations"]
    return name + ("" if demos is None else f": {demos['episodes']} demonstrations")


def _demonstrations(results: Mapping[str, Any]) -> float | None:
    demos = results["demonstrations"]
    return None if demos is None else float(demos["episodes"])


def _pretraining(results: Mapping[str, Any]) -> float | None:
    seconds = results.get("timings", {}).get("pretraining_seconds")
    return None if seconds is None else round(float(seconds) / 60, 2)


SPENT: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "demonstrations": _demonstrations,
    "minutes of pretraining": _pretraining,
}


def _curves(
    evaluations: Sequence[Mapping[str, Any]], spent: Callable[[Mapping[str, Any]], float | None]
) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """Arm -> its points by what was spent; none unless the evaluations differ in that, and in nothing else spent."""
    others = [other for other in SPENT.values() if other is not spent]
    comparable = len({tuple(other(results) for other in others) for results in evaluations}) == 1
    points: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    if not comparable:
        return points
    from vidssl.scripts.report import in_order

    for results in sorted(evaluations, key=lambda one: spent(one) or 0):
        x = spent(results)
        for arm in in_order(results["arms"]) if x is not None else ():
            points.setdefault(arm, []).append((x, results["arms"][arm]))  # type: ignore[arg-type]
    lines = {arm: row for arm, row in points.items() if len({x for x, _ in row}) == len(row) > 1}
    return lines


def _others(found: Found, out: Path) -> list[str]:
    """Delays, latency, training."""
    from vidssl.scripts.lag_figure import plot, says
    from vidssl.scripts.report import figure, plot_training
    from vidssl.scripts.robot_plots import plot_latency

    parts = []
    for number, (name, lag) in enumerate(found.lags.items()):
        path = out / f"lag{number or ''}.png"
        plot(lag, path)
        told = "".join(
            f"<li>{html.escape(pair)}: {html.escape(says(at, lag['rate']))}</li>"
            for pair, at in lag["crossovers"].items()
        )
        parts += [
            f"<h2>Delay: {html.escape(name)}</h2>",
            figure(path, "success against the round-trip delay"),
            f"<ul>{told}</ul>",
        ]
    for number, (name, latency) in enumerate(found.latencies.items()):
        path = out / f"latency{number or ''}.png"
        plot_latency(latency["rows"], path)
        parts += [f"<h2>Latency: {html.escape(name)}</h2>", figure(path, "a step of the encoder; dotted: 10 ms")]
    for number, (name, metrics) in enumerate(found.trainings.items()):
        path = out / f"training{number or ''}.png"
        plot_training(metrics, path)
        parts += [f"<h2>Training: {html.escape(name)}</h2>", figure(path, "loss, and effective rank of the features")]
    return parts
