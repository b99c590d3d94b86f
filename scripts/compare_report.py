"""A comparison under way: the jobs still to do, the lines found so far, and the report."""

import json
import platform
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidssl.errors import VidsslError
from vidssl.machine import cores, versions
from vidssl.scripts.compare_jobs import Job
from vidssl.scripts.compare_plan import Planned, plan_row
from vidssl.scripts.compare_rows import RowSpec

if TYPE_CHECKING:
    from vidssl.datasets.cache import PackedCache
    from vidssl.evaluate.arms import Row
    from vidssl.evaluate.comparison import Entry
    from vidssl.scripts.compare import Config
    from vidssl.scripts.compare_worker import Probing

WORKER = "vidssl.scripts.compare_worker"
VERSIONS = ("vidssl", "torch", "torchvision", "numpy", "av", "lightning-fabric", "lightly")
NEVER = 10**9  # steps between online probes: they would take time from some methods more than from others


class Comparison:
    """The rows of one comparison: the jobs that are still to do, and what has been found so far."""

    def __init__(
        self,
        config: "Config",
        planned: Sequence[Planned],
        probing: "Probing",
        judged: "PackedCache",
        at_once: int,
        threads: int,
    ) -> None:
        self.config, self.planned, self.probing, self.videos = config, planned, probing, len(judged.videos)
        self.at_once, self.threads = at_once, threads
        self.shown = [*planned, *earlier_rows(config, planned)]
        self.targets = list(probing.task(judged).targets)
        self.failures: dict[str, dict[str, str]] = {}
        self.begun = time.perf_counter()

    def results(self, name: str) -> Path:
        """The folder that a job leaves behind."""
        return self.config.out / "results" / file_name(name)

    def jobs(self, cache: "PackedCache", device: str) -> list[Job]:
        """What is still to do: baselines first, then every row's first seed, then the next."""
        (self.config.out / "results").mkdir(exist_ok=True)
        for rest in (self.config.out / "results").glob(".*.part"):
            shutil.rmtree(rest)  # of a job that was killed while it wrote
        jobs = []
        for name, architecture in self.baselines().items():
            jobs.append(self._job(name, {"label": name, "architecture": architecture}))
        for seed in self.config.seeds:
            for row in self.planned:
                if row.failure is None:
                    jobs.append(self._training(row, seed, cache, device))
        return [job for job in jobs if not self.results(job.name).exists()]

    def baselines(self) -> dict[str, dict[str, Any] | None]:
        """The architectures to probe untrained by the name of their line; None stands for pixels and differences."""
        return {"pixels": None} | {row.baseline: row.architecture for row in self.shown if row.failure is None}

    def seeds(self, row: Planned) -> list[int]:
        """The training seeds of a row that are finished, of this call and of earlier ones."""
        prefix = f"{file_name(row.spec.name)}-seed"
        numbers = (path.name.removeprefix(prefix) for path in self.results("").glob(f"{prefix}*"))
        return sorted(int(number) for number in numbers if number.isdigit())

    def _job(self, name: str, settings: dict[str, Any]) -> Job:
        shared = {"probing": asdict(self.probing), "results": str(self.results(name))}
        return Job(file_name(name), WORKER, {**settings, **shared}, self.config.out / "logs")

    def _training(self, row: Planned, seed: int, cache: "PackedCache", device: str) -> Job:
        config = self.config
        folder = config.out / "runs" / f"{row.spec.name}-seed{seed}"
        pretrain = {
            "data": str(cache.folder),
            "out": str(folder),
            "method": row.spec.method,
            "options": list(row.spec.options),
            "encoder": row.encoder,
            "size": config.size,
            "frames": config.frames,
            "stride": config.stride,
            "batch_size": config.batch_size,
            "lr": config.lr,
            "precision": config.precision,
            "minutes": config.minutes,
            "device": device,
            "seed": seed,
            "monitor_every": NEVER,
        }
        job = self._job(folder.name, {"label": row.spec.name, "pretrain": {**pretrain, **row.spec.training}})
        job.seconds, job.metrics = 60 * config.minutes + 20, folder / "metrics.jsonl"
        return job

    def finished(self, job: Job, failure: str | None) -> None:
        """A job has ended: say so, and write down all that is known."""
        label = job.settings["label"]
        if failure is None:
            print(f"done: {job.name}", flush=True)
        else:
            self.failures.setdefault(label, {})[job.name] = failure
            print(f"failed: {job.name}: {failure} (see {job.log})", flush=True)
        self.report(final=False)

    def entries(self) -> "list[Entry]":
        """The lines so far, those of earlier calls included; a row that isn't finished yet has the seeds that are."""
        from vidssl.evaluate.comparison import Entry, read_row

        found = []
        for row in self.shown:
            done = [f"{row.spec.name}-seed{seed}" for seed in self.seeds(row)]
            parts = tuple(read_row(self.results(name) / "0.npz") for name in done)
            facts = tuple(
                {"run": f"runs/{name}", **row.parameters, **_outcome(self.config.out / "runs" / name)} for name in done
            )
            starts = tuple(self._start(row, seed) for seed in self.seeds(row))
            encoder = row.baseline.removeprefix("untrained ") if row.failure is None else row.encoder
            failures = self.failures.get(row.spec.name, {}) if row.failure is None else {row.spec.name: row.failure}
            if parts or failures:
                found.append(Entry(row.spec.name, False, parts, facts, failures, encoder, starts))
        for name in self.baselines():
            rows = [read_row(path) for path in sorted(self.results(name).glob("*.npz"))]
            found += [Entry(row.name, True, (row,)) for row in rows]
            if name in self.failures:
                found.append(Entry(name, True, failures=self.failures[name]))
        return found

    def _start(self, row: Planned, seed: int) -> "Row | None":
        """The row's network with the weights that training with `seed` begins from, of those its baseline averages."""
        from vidssl.evaluate.arms import network
        from vidssl.evaluate.comparison import read_row

        file = None if row.failure else self.results(row.baseline) / "0.npz"
        return network(read_row(file), seed, self.config.shuffles) if file and file.exists() else None

    def report(self, final: bool) -> int:
        """Write comparison.json; at the end the table and the plot as well. Returns 1 where rows are missing."""
        from vidssl.checkpoint import write_json
        from vidssl.evaluate.comparison import as_json, verdicts

        entries = self.entries()
        wanted = [(row, seed) for row in self.planned for seed in self.config.seeds]
        complete = all(seed in self.seeds(row) for row, seed in wanted) and not any(
            entry.failures for entry in entries if entry.baseline
        )
        report = {
            "protocol": self.protocol(),
            "verdict": verdicts(entries),
            "rows": as_json(entries, self.targets),
            "settings": json.loads((self.config.out / "settings.json").read_text()),
            "machine": machine(self.probing.device),
            "versions": versions(VERSIONS) | {"python": platform.python_version()},
            "complete": complete,
        }
        write_json(self.config.out / "comparison.json", report)
        if final and entries:
            self._show(entries, report)
        return 0 if complete else 1

    def _show(self, entries: "Sequence[Entry]", report: dict[str, Any]) -> None:
        from rich.console import Console

        from vidssl.checkpoint import replacing
        from vidssl.evaluate.comparison_view import failures, markdown, plot, tables

        console = Console()
        terminal = console.width
        for table in tables(entries, self.targets):  # in a narrow terminal its lines wrap, and nothing is lost
            console.width = max(terminal, console.measure(table, options=console.options.update(width=1000)).maximum)
            console.print(table)
        console.width = terminal
        lines = [*report["protocol"], *report["verdict"], *failures(entries)]
        print("\n".join(lines))
        with replacing(self.config.out / "comparison.md") as temporary:
            listed = "\n".join(f"- {line}" for line in lines)
            temporary.write_text(f"{markdown(entries, self.targets)}\n{listed}\n", encoding="utf-8")
        with replacing(self.config.out / "comparison.png") as temporary:
            plot(entries, temporary)
        minutes = (time.perf_counter() - self.begun) / 60
        print(f"{minutes:.1f} min; wrote {self.config.out}/comparison.md, comparison.json and comparison.png")

    def protocol(self) -> list[str]:
        """What was done, in words: a figure without it says nothing."""
        config, probing = self.config, self.probing
        rate = f"{probing.fps:g} frames/s" if probing.fps else f"stride {config.stride}"
        seeds = ", ".join(map(str, sorted({seed for row in self.shown for seed in self.seeds(row)} | {*config.seeds})))
        return [
            f"training: {config.minutes:g} min of the loop on {probing.device}, seeds {seeds}, from {config.data}"
            f" without labels, clips of {config.frames} frames ({rate}, {config.size}x{config.size})",
            f"{self.at_once} at a time with {self.threads} CPU threads each; batches of {config.batch_size} clips, peak"
            f" learning rate {config.lr:g}, precision {config.precision}, where a row does not say otherwise",
            f"probing: {self.videos} videos of {probing.data}, {config.folds} folds, {config.shuffles} shuffles, "
            + (f"disjoint in the groups of {config.groups}" if config.groups else "each video a group of its own"),
            f"features: mean and standard deviation over {config.windows} windows of {config.frames} frames,"
            f" standardised on the training folds; untrained: mean of {config.random_encoders} networks",
        ]


def file_name(name: str) -> str:
    """A line's name as a folder's."""
    return re.sub(r"[^\w.@+-]+", "-", name)


def earlier_rows(config: "Config", planned: Sequence[Planned]) -> list[Planned]:
    """The rows that earlier calls added to OUT and this one does not name: they are shown, and not trained."""
    known = {row.spec.name for row in planned}
    found = []
    for name, row in json.loads((config.out / "settings.json").read_text())["rows"].items():
        if name not in known:
            options = tuple(
                f"{key}={tuple(value) if isinstance(value, list) else value!r}" for key, value in row["options"].items()
            )
            spec = RowSpec(name, row["method"], {**row["training"], "encoder": row["encoder"]}, options)
            try:
                found.append(plan_row(spec, config))
            except VidsslError as error:  # a class of elsewhere that is not on the path this time
                found.append(Planned(spec, {}, row["encoder"], None, failure=str(error)))
    return found


def _outcome(run: Path) -> dict[str, Any]:
    """What training took; nothing where the run's folder has been cleared away, whose result is kept apart."""
    file = run / "outcome.json"
    outcome: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return outcome


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    found = {"device": device, "system": platform.platform(), "cores": cores()}
    if device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found
