"""One page about evaluations of robots: success, learning curves, delays, latency.

Example:

    vidssl robot-report runs/rover/eval runs/rover/eval-20-demos runs/rover runs/lag --out runs/rover/report

Each folder holds one or more of results.json (`vidssl robot-eval`), lag.json (`vidssl lag-study`), latency.json
(`python -m vidssl.scripts.bench_latency --out`) and metrics.jsonl (`vidssl pretrain`). Evaluations of one environment
that differ in their number of demonstrations and nothing else, or in the pretraining of their run, are drawn as
learning curves. --out gets the pictures as PNG and report.html, which holds them all and can be moved and sent.
"""

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from vidssl.checkpoint import read_metrics
from vidssl.errors import VidsslError

LATENCY = ("encoder", "form", "p50_ms", "p99_ms")  # of a row
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
    trainings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


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
            _check_lag(folder / "lag.json", found.lags[name])
            _unsort(found.lags[name])
        if name in found.latencies:
            _check_latency(folder / "latency.json", found.latencies[name]["rows"])
        if (folder / "metrics.jsonl").is_file():
            found.trainings[name] = read_metrics(folder)
    return found


def _check_lag(path: Path, lag: Mapping[str, Any]) -> None:
    if not lag["lines"]:
        raise VidsslError(f"{path} holds no lines yet; let `vidssl lag-study` finish")
    for name, line in lag["lines"].items():
        if not isinstance(line, dict) or not line.get("points") or "remote" not in line:
            raise VidsslError(f"{path} is damaged: its line {name!r} lacks `points` or `remote`; make it again")


def _check_latency(path: Path, rows: Any) -> None:
    if not isinstance(rows, list) or not rows:
        raise VidsslError(f"{path} holds no rows; make it again")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise VidsslError(f"{path} is damaged: row {number} is {row!r}; make it again")
        if missing := [key for key in LATENCY if key not in row]:
            raise VidsslError(f"{path}: row {number} lacks {', '.join(missing)}; each has {', '.join(LATENCY)}")


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
    for label in SPENT:
        points = _curves(list(named.values()), label)
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


PRETRAINING = "minutes of pretraining"
SAME = ("seed", "size", "layouts", "deadline", "cloning_seeds", "cloning", "budget", "architecture")
SPENT: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "demonstrations": _demonstrations,
    PRETRAINING: _pretraining,
}


def _alike(results: Mapping[str, Any], label: str) -> str:
    """What evaluations on one learning curve have in common: all but what was spent, and the run if that is what."""
    others = [other(results) for name, other in SPENT.items() if name != label]
    same = SAME if label == PRETRAINING else (*SAME, "run")
    return json.dumps([others, [results.get(key) for key in same]], sort_keys=True)


def _curves(evaluations: Sequence[Mapping[str, Any]], label: str) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """Arm -> its points by what was spent (`label`, of `SPENT`); none unless the evaluations differ in that alone."""
    spent = SPENT[label]
    points: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    if len({_alike(results, label) for results in evaluations}) != 1:
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
        plot_latency(latency["rows"], path, latency.get("title", "a step of the encoder on one camera image"))
        parts += [f"<h2>Latency: {html.escape(name)}</h2>", figure(path, "a step of the encoder; dotted: 10 ms")]
    for number, (name, lines) in enumerate(found.trainings.items()):
        parts.append(f"<h2>Training: {html.escape(name)}</h2>")
        if not lines:
            parts.append("<p>No picture: its metrics.jsonl is empty.</p>")
            continue
        path = out / f"training{number or ''}.png"
        plot_training(lines, path)
        parts.append(figure(path, "loss, and effective rank of the features"))
    return parts
