"""Several controllers in one table: the same layouts for all, the random floor and the expert's ceiling beside them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidssl import machine
from vidssl.errors import VidsslError

from .controller_files import load_controller
from .controllers import ExpertController, RandomController
from .evaluate import DEADLINE, Evaluator
from .outcomes import compare, p_text, summary
from .rollout import EpisodeResult, MakeController, Place, Wrap

FORMAT = 1
FLOOR, CEILING = "random", "expert"
PACKAGES = ("vidssl", "torch", "gymnasium", "mujoco", "numpy", "av")
BENCHMARKS = ("gym-pusht", "pymunk", "gymnasium-robotics", "metaworld", "stable-baselines3", "onnxruntime")


def compare_controllers(
    controllers: Mapping[str, MakeController | str | Path],
    env_id: str,
    episodes: int = 100,
    seed: int = 0,
    *,
    split: str = "test",
    size: int | None = None,
    workers: int = 0,
    wrap: Wrap | None = None,
    deadline: float = DEADLINE,
    show: bool = True,
) -> dict[str, Any]:
    """Run controllers, random actions and the environment's expert over the same layouts, and print the table.

    >>> compare_controllers({"mine": MyController, "cloned": "runs/eval/controllers/learned-seed0"},
    ...                     "vidssl/Rover-v0", episodes=100)

    Args:
        controllers: name -> env -> controller (a class will do), the folder of a saved one, or `"module:Class"`.
        env_id, split, size: see `pixels.make_env`.
        workers, wrap, deadline: see `Evaluator`.
        show: print the table.

    Returns:
        What the table shows and every episode, JSON-able: see `tabulate`.

    Raises VidsslError for names and environments that do not exist, controllers that do not fit the environment.
    """
    if not controllers or {FLOOR, CEILING} & set(controllers):
        raise VidsslError(
            f"compare_controllers: got the names {', '.join(controllers) or 'none'}; give at least one controller, "
            f"under another name than {FLOOR!r} and {CEILING!r}, which are added"
        )
    arms: dict[str, MakeController] = {FLOOR: RandomController}
    for name, given in controllers.items():
        arms[name] = load_controller(given) if isinstance(given, str | Path) else given
    missing = why_no_expert(Place(env_id, split, size, wrap))
    if missing is None:
        arms[CEILING] = ExpertController
    with Evaluator(env_id, split, size, workers, wrap=wrap, deadline=deadline) as evaluator:
        outcomes = {name: evaluator.run(make, episodes, seed) for name, make in arms.items()}
    facts = {"env": env_id, "split": split, "seed": seed, "size": size, "deadline": deadline}
    results = {"format": FORMAT, **facts, "versions": versions()} | tabulate(outcomes, list(controllers))
    if show:
        if missing is not None:
            print(missing)
        print_table(results)
    return results


def why_no_expert(place: Place) -> str | None:
    """None for an environment with an expert, else a line that tells why the table lacks its ceiling."""
    env = place.make()
    try:
        ExpertController(env)
    except VidsslError as error:
        return f"no expert in this table: {error}"
    finally:
        env.close()
    return None


def tabulate(outcomes: Mapping[str, Sequence[EpisodeResult]], references: Sequence[str]) -> dict[str, Any]:
    """`arms`: summary and episodes of each; `paired`: each reference minus every other arm (`"learned - random"`)."""
    arms = {}
    for name, episodes in outcomes.items():
        rows = [{key: value for key, value in vars(episode).items() if key != "actions"} for episode in episodes]
        arms[name] = summary(episodes) | {"results": rows}
    paired = {
        f"{reference} - {name}": compare(outcomes[reference], outcomes[name])
        for reference in references
        for name in outcomes
        if name != reference
    }
    return {"arms": arms, "references": list(references), "paired": paired}


def versions() -> dict[str, str]:
    """Versions of the packages that outcomes depend on, of those that are installed."""
    return machine.versions((*PACKAGES, *BENCHMARKS))


def print_table(results: Mapping[str, Any], about: str = "") -> None:
    """The arms as a rich table: successes, 95 % interval, score where there is one, return, failures, and the paired
    difference of the first reference to each arm (95 % interval, exact p-value)."""
    from rich.console import Console
    from rich.table import Table

    arms: Mapping[str, Any] = results["arms"]
    scored = any("score" in row for row in arms.values())
    reference = next(iter(results["references"]), None)
    table = Table(title=f"{results['env']}, {results['split']} layouts{about}")
    scores = ("score", "95 %", "≥ 0.95", "≥ 0.8") if scored else ()
    pair = (f"{reference} - arm", "p") if reference else ()
    for heading in ("arm", "success", "95 %", *scores, "return", "steps", "failures", *pair):
        left = heading in ("arm", "failures")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "failures")
    for name, row in arms.items():
        table.add_row(
            name,
            f"{row['successes']}/{row['episodes']}",
            _range(row["interval_95"]),
            *(_score_cells(row.get("score")) if scored else ()),
            f"{row['mean_return']:.2f}",
            f"{row['mean_length']:.0f}",
            ", ".join(f"{kind} {count}" for kind, count in row["failures"].items()),
            *(_pair_cells(results["paired"].get(f"{reference} - {name}")) if reference else ()),
        )
    # A log or a pipe has no width of its own, and rich's 80 columns would cut the failures.
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    _print_reasons(arms)


def _print_reasons(arms: Mapping[str, Any]) -> None:
    """One line an arm whose episodes failed by something else than driving badly, with the first reason."""
    for name, row in arms.items():
        told = [episode for episode in row["results"] if episode["reason"]]
        if told:
            first = told[0]
            print(f"{name}: {len(told)} episodes broke off, e.g. layout {first['seed']}: {first['reason']}")


def _score_cells(score: Mapping[str, Any] | None) -> tuple[str, ...]:
    if score is None:
        return ("", "", "", "")
    shares = [f"{part['share']:.2f}" for part in score["at_least"].values()]
    return (f"{score['mean']:.3f}", _range(score["interval_95"]), *shares)


def _pair_cells(pair: Mapping[str, float] | None) -> tuple[str, str]:
    if pair is None:
        return "", ""
    return f"{pair['difference']:+.2f} ({pair['low_95']:+.2f}..{pair['high_95']:+.2f})", p_text(pair["p"])


def _range(interval: Sequence[float]) -> str:
    low, high = np.asarray(interval, float)
    return f"{low:.2f}..{high:.2f}"
