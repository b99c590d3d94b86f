"""The collapse doctor's test set: every method, healthy and broken in the ways of its `ablations`, and what it says.

    python -m vidssl.scripts.bench_doctor --seeds 4 5 --jobs 2

A run counts as collapsed by what it does to clips held out, beside its own untrained network and its healthy twin
(`truth`), never by what was meant when it was broken: a broken run that stands counts as healthy, one that fell at the
method's defaults as collapsed. The doctor reads what the run logged, once with its configuration and once without; any
finding at any time counts as an alarm, recovered from or not, a warning too. Causes are counted where a broken run fell
and was found.
Results are kept under --out, and what is there is not trained again.
"""

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from vidssl.checkpoint import write_json
from vidssl.errors import VidsslError
from vidssl.evaluate.doctor import Setting, diagnose
from vidssl.evaluate.intervals import wilson
from vidssl.methods import METHODS
from vidssl.scripts.doctor_cases import Case, train_case

CONSTANT, DIMENSIONAL = 1 / 4, 1 / 3  # of spread and scale of the untrained network or the twin; of the twin's rank
FEWEST = 4.0  # directions; a run with no twin to compare with has collapsed below
FRAME_ENCODERS = ("small", "small-motion", "small-both")  # a method that takes one of them by default takes any


@dataclass
class Config:
    """Options."""

    methods: list[str] = field(default_factory=lambda: sorted(METHODS))
    """Which of them."""
    seeds: list[int] = field(default_factory=lambda: [4, 5])
    """Of weights, order and generated clips; the thresholds were set on seeds 0, 1 and 2."""
    encoders: list[str] = field(default_factory=lambda: ["control"])
    """Networks; "default" is the method's own. One that needs another kind (tokens, clips) takes its own only."""
    data: str = "shapes"
    """"shapes", generated, or the folder of a packed cache of videos."""
    steps: int = 120
    """A training."""
    lr: float = 1e-3
    """Its peak learning rate."""
    jobs: int = 1
    """Trainings at a time, one thread each."""
    out: Path = Path("runs/doctor")
    """Folder of the results."""
    only_report: bool = False
    """Report what is there, train nothing."""


def cases(config: Config) -> list[Case]:
    """Every training asked for, the healthy ones first."""
    found = {}
    for name in config.methods:
        chosen: Any = METHODS[name]
        for encoder in config.encoders:
            own = encoder == "default" or chosen.default_encoder not in FRAME_ENCODERS
            for seed in config.seeds:
                for ablation in (None, *chosen.ablations):
                    case = Case(
                        name,
                        chosen.default_encoder if own else encoder,
                        ablation.name if ablation else "",
                        seed,
                        config.data,
                        config.steps,
                        config.lr,
                        dict(ablation.options) if ablation else {},
                    )
                    found[case.name] = case
    return sorted(found.values(), key=lambda case: (case.broken != "", case.seed))


def train(config: Config) -> None:
    """Train what is missing."""
    missing = [case for case in cases(config) if not (config.out / f"{case.name}.json").exists()]
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.jobs, mp_context=context) as pool:
        running = {pool.submit(train_case, case): case for case in missing}
        for number, future in enumerate(as_completed(running), 1):
            case = running[future]
            write_json(config.out / f"{case.name}.json", future.result())
            print(f"{number}/{len(missing)} {time.perf_counter() - started:6.0f} s  {case.name}", flush=True)


@dataclass
class Judged:
    """A run, what is true of it and what the doctor said.

    Attributes:
        case: the training.
        meant: the cause it was broken by, None for a healthy one.
        true: `"constant"`, `"dimensional"` or None.
        said, cause: of its last finding with the configuration visible, None for no finding.
        blind_said, blind_cause: the same with the configuration hidden.
    """

    case: Case
    meant: str | None
    true: str | None
    said: str | None
    cause: str | None
    blind_said: str | None
    blind_cause: str | None


def judge(config: Config) -> list[Judged]:
    """Every result that is there."""
    judged = []
    for case in cases(config):
        result = read(config, case)
        if result is None:
            continue
        twin = read(config, replace(case, broken="", options={}))
        ablations: Any = METHODS[case.method].ablations  # type: ignore[attr-defined]
        meant = next((a.cause for a in ablations if a.name == case.broken), None)
        seen = diagnose(result["lines"], Setting.of(result["config"])).findings
        blind = diagnose(result["lines"]).findings
        judged.append(
            Judged(
                case,
                meant,
                truth(result, twin if case.broken else None),
                seen[-1].kind if seen else None,
                seen[-1].cause if seen else None,
                blind[-1].kind if blind else None,
                blind[-1].cause if blind else None,
            )
        )
    return judged


def read(config: Config, case: Case) -> dict[str, Any] | None:
    """A kept result, None where there is none."""
    path = config.out / f"{case.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def truth(result: dict[str, Any], twin: dict[str, Any] | None) -> str | None:
    """Whether the run collapsed, by held-out clips: what the loss compares or, without such, what is exported.

    Constant: it scatters less than a quarter as far as the untrained network did, or the twin does; or, where terms of
    the loss are to hold the scale, has less than a quarter of it. Dimensional: its RankMe is less than a third of the
    twin's, or below four directions.
    """
    after, before = result["after"], result["before"]
    kind = "embedding" if "embedding_deviation" in after else "feature"
    peers = [before] + ([twin["after"]] if twin is not None else [])
    scatter, scale, rank = (f"{kind}_{name}" for name in ("deviation", "scale", "rankme"))
    if after[scatter] < CONSTANT * max(peer[scatter] for peer in peers):
        return "constant"
    terms = sum(name.startswith("share_") for name in result["lines"][0])
    if terms > 1 and scale in after and after[scale] < CONSTANT * max(peer[scale] for peer in peers):
        return "constant"
    fallen = twin is not None and after[rank] < DIMENSIONAL * twin["after"][rank]
    return "dimensional" if fallen or after[rank] < FEWEST < DIMENSIONAL * before[rank] else None


def table(judged: list[Judged]) -> list[str]:
    """A line a method, and the sums; "x / y" is with the settings seen / by the numbers alone."""
    lines = ["| method | runs | collapsed | found | false alarms | kind right | cause right |", "|---" * 7 + "|"]
    for name in (*sorted({row.case.method for row in judged}), ""):
        rows = [row for row in judged if not name or row.case.method == name]
        both = [_counts(rows, "said", "cause"), _counts(rows, "blind_said", "blind_cause")]
        cells = [f"{seen} / {blind}" for seen, blind in zip(*both, strict=True)]
        fell = sum(row.true is not None for row in rows)
        lines.append(f"| {name or '**all**'} | {len(rows)} | {fell} | {' | '.join(cells)} |")
    return lines


def _counts(rows: list[Judged], said: str, cause: str) -> list[str]:
    """Collapses found, false alarms, kinds that are right of those found, causes that are right of those known."""
    found = [row for row in rows if row.true and getattr(row, said)]
    false = sum(row.true is None and getattr(row, said) is not None for row in rows)
    kinds = sum(getattr(row, said) == row.true for row in found)
    known = [row for row in found if row.meant]
    causes = sum(getattr(row, cause) == row.meant for row in known)
    return [f"{len(found)}", f"{false}", f"{kinds} of {len(found)}", f"{causes} of {len(known)}"]


def summary(judged: list[Judged]) -> list[str]:
    """Precision and recall with Wilson's 95 % intervals; then every run that is not as meant or not as said."""
    lines = []
    fell = [row for row in judged if row.true]
    for way, said in (("settings seen", "said"), ("numbers alone", "blind_said")):
        alarms = [row for row in judged if getattr(row, said)]
        right = sum(row.true is not None for row in alarms)
        for what, whole in (("precision", len(alarms)), ("recall", len(fell))):
            if whole:
                low, high = wilson(right, whole)
                lines.append(f"{way}: {what} {right}/{whole} = {right / whole:.2f} ({low:.2f} to {high:.2f})")
        for kind in ("constant", "dimensional"):
            agreed = sum(getattr(row, said) == row.true == kind for row in judged)
            told, true = (sum(getattr(row, which) == kind for row in judged) for which in (said, "true"))
            lines.append(f"{way}: {kind}: {agreed} of {told} said are right, {agreed} of {true} true are found")
    notes = {
        "broken, and stands": [row for row in judged if row.case.broken and not row.true],
        "at its defaults, and fell": [row for row in judged if not row.case.broken and row.true],
        "missed, settings seen": [row for row in fell if not row.said],
        "false alarm, settings seen": [row for row in judged if row.said and not row.true],
        "missed, numbers alone": [row for row in fell if not row.blind_said],
        "false alarm, numbers alone": [row for row in judged if row.blind_said and not row.true],
    }
    return lines + [f"{what}: {row.case.name}" for what, rows in notes.items() for row in rows]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    config = tyro.cli(Config, args=argv, prog="bench_doctor", description=__doc__)
    if not config.only_report:
        train(config)
    judged = judge(config)
    if not judged:
        raise VidsslError(f"{config.out}: no results of these cases; leave --only-report out to train them")
    print("\n".join([*table(judged), "", *summary(judged)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
