"""Train many methods on the same videos for the same time, and judge them all by the same probes.

DATA is as for `vidssl pretrain`: a folder of videos, a list file, or a packed cache. It needs classes (subfolders) or
--targets to judge by. Every method trains in a process of its own, on as many CPU threads as every other, from a
packed cache; its clock counts the training loop alone. All rows, and beside them raw pixels, frame differences and
every architecture untrained, see the same frames and the same folds, which never cut through a group.

Example:

    vidssl compare videos/ --out comparison --methods all --minutes 3 --seeds 0 1 --groups videos/sources.csv

prints the table and writes it as comparison.md, comparison.json and comparison.png. A row of --methods is

    METHOD[@LABEL][,SETTING=VALUE …]

a name, `module:Class`, or `all`; settings are those of the method and encoder, lr, precision, batch_size, accumulate,
views. A method with two settings is two rows: simclr simclr@bf16,precision=bf16 simclr@cold,temperature=0.05

Whatever is finished is kept: stop it when you like, and go on with the same command, with more rows or more seeds.
"""

import json
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vidssl.errors import VidsslError
from vidssl.scripts.compare_jobs import Job, locked, run_jobs
from vidssl.scripts.compare_rows import RowSpec, parse_rows

if TYPE_CHECKING:
    from vidssl.datasets.cache import PackedCache
    from vidssl.evaluate.comparison import Entry
    from vidssl.scripts.compare_worker import Probing

WORKER = "vidssl.scripts.compare_worker"
VERSIONS = ("vidssl", "torch", "torchvision", "numpy", "av", "lightning-fabric")
NEVER = 10**9  # steps between online probes: they would take time from some methods more than from others
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROW …")]


@dataclass(frozen=True)
class Config:
    """See the text above."""

    data: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DATA")]]
    """folder of videos, list file or packed cache"""
    out: Path
    """folder for runs, results and tables"""
    methods: Names
    """rows, see above"""
    minutes: float = 3.0
    """of training, for every row and seed"""
    seeds: tuple[int, ...] = (0,)
    """of training; every row is trained with each"""
    encoder: str | None = None
    """network of all rows; each method's own choice when not given"""
    size: int = 64
    """frames are scaled to size x size pixels"""
    frames: int = 10
    """frames a clip, in training and probing"""
    stride: int = 2
    """a clip takes every stride-th frame"""
    batch_size: int = 32
    """clips a batch"""
    lr: float = 1e-3
    """peak learning rate"""
    precision: Literal["32", "bf16"] = "32"
    """32 bit floats, or bf16 mixed"""
    groups: Path | None = None
    """CSV with columns path and source (camera, scene, subject): splits never cut through a source"""
    targets: Path | None = None
    """CSV with the column path and columns of numbers to predict by ridge regression"""
    evaluate: Annotated[Path | None, tyro.conf.arg(metavar="DATA")] = None
    """probe on these videos instead of those trained on; --groups and --targets are then about them"""
    cache: Path | None = None
    """packed cache of DATA, built where there is none; OUT/cache when not given"""
    folds: int = 5
    """folds of the cross-validation"""
    shuffles: int = 3
    """shuffles of the fold assignment"""
    random_encoders: int = 3
    """untrained networks averaged in a baseline"""
    windows: int = 4
    """clips probed of a video, spread evenly"""
    jobs: int | None = None
    """trainings at a time; when not given, 1 on a GPU, otherwise 2 (1 on one core)"""
    threads: int | None = None
    """CPU threads of each; the cores shared out when not given"""
    device: Annotated[str, tyro.conf.arg(metavar="{auto,cpu,cuda}")] = "auto"
    """where to train"""
    workers: int = 2
    """processes that decode the videos into the cache"""
    deadline: float = 30.0
    """seconds after which a decoder that does not answer is killed and its file left out"""
    max_failed: float = 0.2
    """stop when more than this share of the videos cannot be read"""


@dataclass(frozen=True)
class Planned:
    """A row with what is known before it is trained: its untrained network, or why it can't be built."""

    spec: RowSpec
    options: dict[str, Any]
    encoder: str
    architecture: dict[str, Any] | None
    parameters: dict[str, int] = field(default_factory=dict)
    failure: str | None = None

    @property
    def baseline(self) -> str:
        """The name of its untrained network."""
        assert self.architecture is not None
        context = self.architecture["context"]
        return f"untrained {self.architecture['encoder']['name']}" + (f" + {context['name']}" if context else "")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 when every row has all its seeds, else 1."""
    return run(tyro.cli(Config, args=argv, prog="vidssl compare", description=__doc__))


def run(config: Config) -> int:
    """Compare as configured; the function behind the command."""
    from vidssl.device import choose_device
    from vidssl.methods import METHODS

    specs = parse_rows(config.methods, list(METHODS))
    _check(config)
    device = choose_device(config.device)
    at_once, threads = share(config, device)
    planned = [plan(spec, config) for spec in specs]
    with locked(config.out) as lock:
        cache, judged = open_caches(config)
        probing = make_probing(config, cache, judged, device)
        probing.task(judged)  # what is wrong with labels, groups or targets is told now
        keep_settings(config, planned, cache, judged, threads, device)
        comparison = Comparison(config, planned, probing, judged)
        jobs = comparison.jobs(cache, device)
        trainings = sum(job.metrics is not None for job in jobs)
        print(
            f"{len(planned)} rows x {len(config.seeds)} seeds: {trainings} trainings of {config.minutes:g} min to do on"
            f" {device}, {at_once} at a time, {threads} threads each: about"
            f" {trainings * config.minutes / at_once:.0f} min and the probing",
            flush=True,
        )
        try:
            run_jobs(jobs, at_once, threads, lock, comparison.finished)
        except (KeyboardInterrupt, SystemExit):
            comparison.report(final=True)
            print("stopped; go on with the same command")
            raise
        return comparison.report(final=True)


def _check(config: Config) -> None:
    for name in ("folds", "shuffles", "random_encoders", "windows", "frames", "jobs", "threads", "batch_size"):
        if (number := getattr(config, name)) is not None and number < 1:
            raise VidsslError(f"--{name.replace('_', '-')}: got {number}; at least 1")
    if not config.minutes > 0:
        raise VidsslError(f"--minutes: got {config.minutes}; above 0")
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise VidsslError(f"--seeds: got {config.seeds}; one at least, and each once")


def share(config: Config, device: str) -> tuple[int, int]:
    """Trainings at a time, and threads of each."""
    import os

    cores = len(os.sched_getaffinity(0))
    at_once = config.jobs or (1 if device == "cuda" else min(2, cores))
    return at_once, config.threads or max(1, cores // at_once)


def plan(spec: RowSpec, config: Config) -> Planned:
    """Build the row's method once, untrained: its architecture, or why it can't be had.

    Raises:
        VidsslError: no such method, or an option that it doesn't have.
    """
    from vidssl.encoders import build_encoder
    from vidssl.methods import find_method
    from vidssl.scripts.pretrain import default_encoder, method_options
    from vidssl.views import Views

    method_class = find_method(spec.method)
    options = method_options(method_class, spec.method, list(spec.options))
    name = spec.training.get("encoder") or config.encoder or default_encoder(method_class)
    size = (config.size, config.size)
    encoder = build_encoder(name, size)
    parameters = sum(p.numel() for p in encoder.parameters())
    try:  # a method from elsewhere may raise anything; the others shall not suffer from it
        views = method_class.default_views(size)
        method = method_class(encoder, Views.none(size) if spec.training.get("views") == "none" else views, **options)
        seen_by_context = method.output == "context"
        architecture = {
            "encoder": {"name": name},
            "context": {"name": method.context.name, "dim": method.context.dim} if seen_by_context else None,
            "output": method.output,
            "image_size": list(size),
        }
    except Exception as error:
        return Planned(spec, options, name, None, failure=f"{type(error).__name__}: {error}")
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    if seen_by_context:
        parameters += sum(p.numel() for p in method.context.parameters())
    return Planned(spec, options, name, architecture, {"parameters": parameters, "trained_parameters": trained})


def open_caches(config: Config) -> "tuple[PackedCache, PackedCache]":
    """The videos to train on and those to probe on, decoded once."""
    cache = _open_cache(config, config.data, config.cache or config.out / "cache")
    if config.evaluate is None:
        return cache, cache
    return cache, _open_cache(config, config.evaluate, config.out / "cache-evaluate")


def _open_cache(config: Config, data: Path, folder: Path) -> "PackedCache":
    from vidssl.datasets.cache import PackedCache, is_cache
    from vidssl.datasets.files import find_videos
    from vidssl.datasets.quarantine import Quarantine

    if is_cache(data):
        cache = PackedCache.open(data)
        if cache.size != (config.size, config.size):
            raise VidsslError(f"{data}: a cache of frames {cache.size}; pass --size {cache.size[0]}")
        return cache
    quarantine = Quarantine(config.out / "quarantine.csv", config.max_failed)
    return PackedCache.build(
        find_videos(data),
        folder,
        config.size,
        quarantine=quarantine,
        workers=config.workers,
        deadline=config.deadline,
    )


def make_probing(config: Config, cache: "PackedCache", judged: "PackedCache", device: str) -> "Probing":
    """What every row is judged by."""
    from vidssl.scripts.compare_worker import Probing
    from vidssl.scripts.pretrain import clip_rate

    span = (config.frames - 1) * config.stride + 1
    return Probing(
        data=str(config.evaluate or config.data),
        cache=str(judged.folder),
        groups=None if config.groups is None else str(config.groups),
        targets=None if config.targets is None else str(config.targets),
        folds=config.folds,
        shuffles=config.shuffles,
        windows=config.windows,
        clip={"frames": config.frames, "stride": config.stride},
        fps=clip_rate([video for video in cache.videos if video.frames >= span], config.stride),
        random_encoders=config.random_encoders,
        device=device,
    )


def keep_settings(
    config: Config,
    planned: Sequence[Planned],
    cache: "PackedCache",
    judged: "PackedCache",
    threads: int,
    device: str,
) -> None:
    """Write what all rows share, and each row's own settings; a folder begun with others is refused.

    Raises:
        VidsslError: OUT holds rows of other settings, which could not be compared.
    """
    from vidssl.checkpoint import write_json

    free = (
        "out",
        "methods",
        "seeds",
        "jobs",
        "threads",
        "device",
        "cache",
        "workers",
        "deadline",
        "max_failed",
        "data",
    )
    shared = {name: value for name, value in asdict(config).items() if name not in free}
    shared |= {"threads": threads, "device": device, "videos": [[v.name, v.crc32] for v in cache.videos]}
    shared |= {"judged": None if judged is cache else [[v.name, v.crc32] for v in judged.videos]}
    rows = {row.spec.name: {**asdict(row.spec), "options": row.options, "encoder": row.encoder} for row in planned}
    ours = json.loads(json.dumps({"shared": shared, "rows": rows}, default=str))
    file = config.out / "settings.json"
    before = json.loads(file.read_text()) if file.exists() else {"shared": ours["shared"], "rows": {}}
    changed = sorted(name for name in ours["shared"] if before["shared"].get(name) != ours["shared"][name])
    if changed:
        told = "; ".join(f"{name}: {_brief(before['shared'].get(name))} then" for name in changed)
        raise VidsslError(
            f"{config.out} was begun with other settings ({told}); give the same, or choose another --out"
        )
    for label, row in ours["rows"].items():
        if before["rows"].get(label, row) != row:
            raise VidsslError(
                f"{config.out} holds a row {label} of other settings; give this one a label of its own:"
                f" {row['method']}@NAME,…"
            )
    write_json(file, {"shared": ours["shared"], "rows": before["rows"] | ours["rows"]})


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"


class Comparison:
    """The rows of one comparison: the jobs that are still to do, and what has been found so far."""

    def __init__(self, config: Config, planned: Sequence[Planned], probing: "Probing", judged: "PackedCache") -> None:
        self.config, self.planned, self.probing, self.videos = config, planned, probing, len(judged.videos)
        self.targets = list(probing.task(judged).targets)
        self.failures: dict[str, dict[str, str]] = {}
        self.begun = time.perf_counter()

    def results(self, name: str) -> Path:
        """The folder that a job leaves behind."""
        return self.config.out / "results" / name

    def jobs(self, cache: "PackedCache", device: str) -> list[Job]:
        """What is still to do: baselines first, then every row's first seed, then the next."""
        (self.config.out / "results").mkdir(exist_ok=True)
        for rest in (self.config.out / "results").glob(".*.part"):
            shutil.rmtree(rest)  # of a job that was killed while it wrote
        jobs = []
        for name, architecture in self.baselines().items():
            jobs.append(self._job(name.replace(" ", "-"), {"label": name, "architecture": architecture}))
        for seed in self.config.seeds:
            for row in self.planned:
                if row.failure is None:
                    jobs.append(self._training(row, seed, cache, device))
        return [job for job in jobs if not self.results(job.name).exists()]

    def baselines(self) -> dict[str, dict[str, Any] | None]:
        """The architectures to probe untrained by the name of their line; None stands for pixels and differences."""
        return {"pixels": None} | {row.baseline: row.architecture for row in self.planned if row.failure is None}

    def _job(self, name: str, settings: dict[str, Any]) -> Job:
        name = name.replace("/", "-").replace(":", "-")
        shared = {"probing": asdict(self.probing), "results": str(self.results(name))}
        return Job(name, WORKER, {**settings, **shared}, self.config.out / "logs")

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
        """The lines so far; a row that isn't finished yet has the seeds that are."""
        from vidssl.evaluate.comparison import Entry, read_row

        found = []
        for row in self.planned:
            names = [f"{row.spec.name}-seed{seed}" for seed in self.config.seeds]
            done = [name for name in names if self.results(name).exists()]
            parts = tuple(read_row(self.results(name) / "0.npz") for name in done)
            facts = tuple(
                {"run": f"runs/{name}", **row.parameters, **_outcome(self.config.out / "runs" / name)} for name in done
            )
            failures = self.failures.get(row.spec.name, {}) if row.failure is None else {"all": row.failure}
            if parts or failures:
                found.append(Entry(row.spec.name, False, parts, facts, failures))
        for name in self.baselines():
            folder = self.results(name.replace(" ", "-").replace("/", "-").replace(":", "-"))
            rows = [read_row(path) for path in sorted(folder.glob("*.npz"))]
            found += [Entry(row.name, True, (row,)) for row in rows]
            if name in self.failures:
                found.append(Entry(name, True, failures=self.failures[name]))
        return found

    def report(self, final: bool) -> int:
        """Write comparison.json; at the end the table and the plot as well. Returns 1 where rows are missing."""
        from vidssl.checkpoint import replacing, write_json
        from vidssl.evaluate.comparison import as_json, verdicts

        entries = self.entries()
        wanted = sum(len(self.config.seeds) for _ in self.planned)
        done = sum(len(entry.parts) for entry in entries if not entry.baseline)
        report = {
            "protocol": self.protocol(),
            "verdict": verdicts(entries),
            "rows": as_json(entries, self.targets),
            "settings": json.loads((self.config.out / "settings.json").read_text()),
            "machine": machine(self.probing.device),
            "versions": {name: _version(name) for name in VERSIONS} | {"python": platform.python_version()},
            "complete": done == wanted,
        }
        write_json(self.config.out / "comparison.json", report)
        if final:
            self._show(entries, report)
            with replacing(self.config.out / "comparison.png") as temporary:
                _plot(entries, temporary)
        return 0 if done == wanted else 1

    def _show(self, entries: "Sequence[Entry]", report: dict[str, Any]) -> None:
        from rich.console import Console

        from vidssl.checkpoint import replacing
        from vidssl.evaluate.comparison_view import markdown, table

        console = Console()
        console.width = max(console.width, 160)  # wider than a narrow terminal: lines wrap, nothing is lost
        console.print(table(entries, self.targets))
        lines = [*report["protocol"], *report["verdict"]]
        console.print("\n".join(lines), highlight=False, markup=False)
        with replacing(self.config.out / "comparison.md") as temporary:
            listed = "\n".join(f"- {line}" for line in lines)
            temporary.write_text(f"{markdown(entries, self.targets)}\n{listed}\n", encoding="utf-8")
        minutes = (time.perf_counter() - self.begun) / 60
        print(f"{minutes:.1f} min; wrote {self.config.out}/comparison.md, comparison.json and comparison.png")

    def protocol(self) -> list[str]:
        """What was done, in words: a figure without it says nothing."""
        config, probing = self.config, self.probing
        rate = f"{probing.fps:g} frames/s" if probing.fps else f"stride {config.stride}"
        seeds = ", ".join(map(str, config.seeds))
        return [
            f"training: {config.minutes:g} min of the loop on {probing.device}, seeds {seeds}, from {config.data}"
            f" without labels, clips of {config.frames} frames ({rate}, {config.size}x{config.size})",
            f"probing: {self.videos} videos of {probing.data}, {config.folds} folds, {config.shuffles} shuffles, "
            + (f"disjoint in the groups of {config.groups}" if config.groups else "each video a group of its own"),
            f"features: mean and standard deviation over {config.windows} windows of {config.frames} frames,"
            f" standardised on the training folds; untrained: mean of {config.random_encoders} networks",
        ]


def _plot(entries: "Sequence[Entry]", path: Path) -> None:
    from vidssl.evaluate.comparison_view import plot

    plot(entries, path)


def _outcome(run: Path) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads((run / "outcome.json").read_text())
    return outcome


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    import os

    found = {"device": device, "system": platform.platform(), "cores": len(os.sched_getaffinity(0))}
    if device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
