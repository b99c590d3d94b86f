"""Judge estimators of rotation on pairs of depth views, beside geometric registration.

PAIRS is an .npz with K [3,3] and, for any prefix X, X_a and X_b [n,H,W] (depth in metres, 0 = no return) and X_R
[n,3,3], the rotation from view a to view b: p_b = R p_a about the object's middle, camera axes x right, y down, z
forward. `vidssl rotation-pairs` writes such files. Every estimator sees the same pairs; a pair that isn't usable (no or
too few surface points, millimetres) is left out for all, and named.

RUN is a run of `vidssl train-rotation`, or none for the peers alone: point-to-plane ICP, GICP, FPFH features with
RANSAC and ICP, and GICP from 81 starts, which with a run is its geometric part.

Example:

    vidssl evaluate-rotation runs/rotation --pairs pairs.npz

prints one table a prefix with median, 90 % percentile and mean of the error, the share within 5° with its interval, and
the median wall-clock milliseconds a pair, and writes them to rotation.json in the run's folder evaluation.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from vidssl.errors import VidsslError

if TYPE_CHECKING:
    from vidssl.datasets.rotation_pairs import RotationPairs
    from vidssl.evaluate.rotation import Estimate, Outcome


GEOMETRIC = "geometric: GICP from 81 starts"  # the row of a run's geometric part


@dataclass
class Config:
    """See the text above."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN|none")]]
    """run folder, written by `vidssl train-rotation`; none for the peers alone"""
    pairs: Path
    """the .npz of pairs"""
    limit: int | None = None
    """the first so many pairs of each prefix; all when not given"""
    peers: bool = True
    """--no-peers leaves the geometric peers out, and the run's geometric part"""
    threads: int = 1
    """threads for torch and Open3D; small_gicp (the GICP peers) always runs on one"""
    out: Path | None = None
    """the JSON file; RUN/evaluation/rotation.json, or beside PAIRS for RUN none, when not given"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    evaluate(tyro.cli(Config, args=argv, prog="vidssl evaluate-rotation", description=__doc__))
    return 0


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluate as configured, print the tables, write the JSON, and return what it holds.

    Raises:
        VidsslError: settings that make no sense, pairs that can't be judged, a JSON that can't be written: all of it
            before the first estimate.
    """
    for name in ("threads", "limit"):
        if (number := getattr(config, name)) is not None and number < 1:
            raise VidsslError(f"--{name}: got {number}; at least 1")
    learned = str(config.run) != "none"
    if not learned and not config.peers:
        raise VidsslError("RUN none and --no-peers leave nothing to judge; name a run, or keep the peers")
    os.environ["OMP_NUM_THREADS"] = str(config.threads)  # Open3D reads it when it is imported, below
    import torch
    from rich.console import Console

    from vidssl.checkpoint import check_writable, write_json
    from vidssl.datasets.rotation_pairs import load_pairs
    from vidssl.evaluate.rotation import looks_transposed, notes, report, rotation_table, run
    from vidssl.evaluate.tables import widest
    from vidssl.progress import progress_bar

    torch.set_num_threads(config.threads)
    out = config.out or default_out(config)
    check_writable(out)
    sets = load_pairs(config.pairs)
    judged = {prefix: usable(prefix, pairs, config.limit, learned) for prefix, pairs in sets.items()}  # before the work
    estimators = learned_estimators(config.run) if learned else {}
    if learned and not config.peers:
        del estimators[GEOMETRIC]  # a second a pair
    if config.peers:
        done = {"GICP from 81 starts"} if learned else set()  # that is the run's geometric part
        estimators |= {name: peer for name, peer in peer_estimators().items() if name not in done}
    found: dict[str, Any] = {"run": str(config.run), "pairs": str(config.pairs), "threads": config.threads, "sets": {}}
    console = Console()
    for prefix, pairs in sets.items():
        chosen, left_out = judged[prefix]
        outcomes: dict[str, Outcome] = {}
        with progress_bar(prefix, len(chosen) * len(estimators), True) as advance:
            for name, estimate in estimators.items():
                outcomes[name] = run(estimate, pairs.a[chosen], pairs.b[chosen], pairs.R[chosen], pairs.K, advance)
        rows = {name: report(outcome) for name, outcome in outcomes.items()}
        transposed = looks_transposed(list(outcomes.values()))
        found["sets"][prefix] = {"rows": rows, "left_out": left_out, "looks_transposed": transposed}
        table = rotation_table(f"{prefix}: {len(chosen)} pairs, {config.threads} thread(s)", rows)
        console.width = max(console.width, widest(table))
        console.print(table)
        lines = notes(rows) + [f"left out: {reason}" for reason in left_out.values()]
        if transposed:
            lines.append(
                f"warning: {prefix}_R looks transposed: estimates agree with its inverses far better; R must turn view"
                " a to view b, p_b = R p_a"
            )
        console.print("\n".join(lines), highlight=False, markup=False)
    write_json(out, found)
    print(f"wrote {out}")
    return found


def default_out(config: Config) -> Path:
    """In the run's folder; without a run, beside the pairs."""
    if str(config.run) == "none":
        return config.pairs.with_name(f"{config.pairs.stem}.rotation.json")
    return config.run / "evaluation" / "rotation.json"


def usable(prefix: str, pairs: "RotationPairs", limit: int | None, learned: bool) -> tuple[list[int], dict[str, str]]:
    """Which of the first `limit` pairs can be judged (by `learned` estimators too), and for the others the reason, by
    number.

    Raises:
        VidsslError: K can't belong to the pictures, or no pair is left.
    """
    from vidssl.rotation.clouds import check_depth, check_intrinsics
    from vidssl.rotation.estimate import Pair

    check_intrinsics(pairs.K, (pairs.a.shape[1], pairs.a.shape[2]))
    chosen, left_out = [], {}
    for number in range(len(pairs) if limit is None else min(limit, len(pairs))):
        try:
            for part, depth in (("a", pairs.a), ("b", pairs.b)):
                check_depth(depth[number], f"{prefix}_{part}[{number}]")
            if learned:
                Pair.of(pairs.a[number], pairs.b[number], pairs.K).crops()
            chosen.append(number)
        except VidsslError as error:
            left_out[str(number)] = str(error)
    if not chosen:
        raise VidsslError(f"{prefix}: no usable pair; {next(iter(left_out.values()), 'it holds none')}")
    return chosen, left_out


def learned_estimators(run: Path) -> "dict[str, Estimate]":
    """The run's estimator, its learned and its geometric part alone and both combined, by name."""
    from vidssl.evaluate.rotation import Answer
    from vidssl.rotation import load_estimator

    estimator = load_estimator(run)

    def of(parts: str) -> "Estimate":
        def estimate(a: Any, b: Any, K: Any) -> Answer:
            found = estimator.estimate(a, b, K, parts=parts)
            candidates = [candidate.rotation for candidate in found.candidates]
            expected = found.expected_error if np.isfinite(found.expected_error) else None  # NaN: not calibrated
            return Answer(found.rotation, np.stack(candidates) if candidates else None, expected)

        return estimate

    return {
        "learned": of("learned"),
        GEOMETRIC: of("geometric"),
        "combined": of("combined"),
    }


def peer_estimators() -> "dict[str, Estimate]":
    """The geometric peers by name."""
    from vidssl.evaluate.rotation import Answer
    from vidssl.rotation.registration import PEERS, candidates

    def of(peer: Any) -> "Estimate":
        return lambda a, b, K: Answer(peer(a, b, K))

    def from_starts(a: Any, b: Any, K: Any) -> Answer:
        rotations, _ = candidates(a, b, K)
        return Answer(rotations[0], rotations)

    # the peer from many starts shows them too, so that an oracle can pick
    return {name: of(peer) for name, peer in PEERS.items()} | {"GICP from 81 starts": from_starts}
