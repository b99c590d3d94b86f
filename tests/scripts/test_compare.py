"""`vidssl compare`: rows as they are written, jobs side by side, the whole on tiny videos, and answers to bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import write_videos

from vidssl.errors import VidsslError
from vidssl.methods import METHODS, video_methods
from vidssl.scripts import compare, evaluate
from vidssl.scripts.compare_jobs import Job, locked, run_jobs
from vidssl.scripts.compare_plan import plan_row
from vidssl.scripts.compare_rows import TRAINING, RowSpec, parse_rows
from vidssl.scripts.pretrain import method_options

NAMES = ["byol", "cpc", "simclr"]


def test_rows_as_they_are_written() -> None:
    assert parse_rows(["simclr"], NAMES) == [RowSpec("simclr", "simclr")]
    (row,) = parse_rows(["simclr@cold,temperature=0.05,lr=5e-4,encoder=resnet18,precision=bf16"], NAMES)
    assert row.name == "simclr@cold"
    assert row.method == "simclr"
    assert row.training == {"lr": 5e-4, "encoder": "resnet18", "precision": "bf16"}
    assert row.options == ("temperature=0.05",)
    (row,) = parse_rows(["simclr@firm,weight_decay=0.05,lr_warmup=0,clip_norm=3"], NAMES)
    assert row.training == {"weight_decay": 0.05, "lr_warmup": 0.0, "clip_norm": 3.0}
    (row,) = parse_rows(["package.module:Class@mine,widths=(64,32),batch_size=8"], NAMES)
    assert (row.name, row.method) == ("Class@mine", "package.module:Class")
    assert row.options == ("widths=(64,32)",)
    assert row.training == {"batch_size": 8}


def test_all_stands_for_the_methods_that_no_other_row_names() -> None:
    rows = parse_rows(["all", "cpc,steps=2", "byol@slow,momentum=0.999"], NAMES)
    assert [row.name for row in rows] == ["byol", "simclr", "cpc", "byol@slow"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "none given; write METHOD"),
        (["simclr", "simclr,temperature=0.1"], "two rows are called simclr; give one a label: simclr@NAME"),
        (["simlcr"], "unknown method 'simlcr'.*all.*simclr"),
        (["simclr@"], "letters, digits"),
        (["simclr@a/b"], "letters, digits"),
        (["simclr,temperature"], "got 'temperature' in 'simclr,temperature'; write METHOD"),
        (["simclr,precision=16"], "precision can't be '16'.*choose from 32, bf16"),
        (["simclr,lr=fast"], "lr can't be 'fast'"),
    ],
)
def test_rows_that_can_not_be_read(texts: list[str], message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        parse_rows(texts, NAMES)


@pytest.mark.parametrize("name", METHODS)
def test_no_method_has_an_option_named_like_a_setting_of_training(name: str) -> None:
    assert not set(method_options(METHODS[name], name, [])) & set(TRAINING)


# A job: appends its name to `order` when it starts, then does what it is told.
JOB = """
import json, pathlib, signal, sys, time
settings = json.loads(pathlib.Path(sys.argv[1]).read_text())
folder = pathlib.Path(settings["folder"])
def saved(number, frame):
    (folder / f"{settings['name']}.saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, saved)
(folder / f"{settings['name']}.began").touch()
if settings["does"] == "fails":
    sys.exit("error: it does not fit")
if settings["does"] == "dies":
    import os
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(settings["seconds"])
"""


def make_job(folder: Path, name: str, does: str = "sleeps", seconds: float = 0.0) -> Job:
    (folder / "a_job.py").write_text(JOB)
    settings = {"name": name, "does": does, "seconds": seconds, "folder": str(folder)}
    return Job(name, "a_job", settings, folder / "logs")


def test_a_job_that_fails_is_told_and_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    told: dict[str, str | None] = {}
    jobs = [make_job(tmp_path, "a", "fails"), make_job(tmp_path, "b", "dies"), make_job(tmp_path, "c")]
    with locked(tmp_path / "out") as lock:
        run_jobs(jobs, 2, 1, lock, lambda job, failure: told.update({job.name: failure}))
    assert told == {"a": "it does not fit", "b": "killed by SIGKILL; out of memory?", "c": None}


# A comparison of one long job, as a program: Ctrl-C goes to it alone.
STOPPED = """
import json, pathlib, signal, sys
sys.path[:0] = json.loads(sys.argv[2])
from test_compare import make_job
from vidssl.scripts.compare_jobs import locked, run_jobs
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = pathlib.Path(sys.argv[1])
try:
    with locked(folder / "out") as lock:
        run_jobs([make_job(folder, "long", seconds=60)], 1, 1, lock, lambda job, failure: None)
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_lets_the_running_jobs_save_and_the_folder_is_locked_meanwhile(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(tmp_path), *filter(None, sys.path)]
    command = [sys.executable, "-c", STOPPED, str(tmp_path), json.dumps(paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "long.began").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(VidsslError, match="another comparison writes there"), locked(tmp_path / "out"):
            pass
        process.send_signal(signal.SIGINT)
        try:
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == "stopped\n"
    assert (tmp_path / "long.saved").exists()
    with locked(tmp_path / "out"):  # and it is free again
        pass


BROKEN = "broken_methods:"
FEW = [
    *("--size", "32", "--frames", "4", "--stride", "1", "--batch-size", "8", "--minutes", "0.02", "--device", "cpu"),
    *("--folds", "3", "--shuffles", "2", "--random-encoders", "1", "--threads", "1", "--workers", "1"),
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_videos(tmp_path_factory.mktemp("videos"))
    names = [f"{label}/{number}.mp4" for label in ("still", "moving") for number in range(10)]
    rows = [f"{name},{3 * name.startswith('moving')},{7 * i % 11}" for i, name in enumerate(names)]
    (folder / "targets.csv").write_text("path,speed,luck\n" + "\n".join(rows) + "\n")
    return folder


def run(videos: Path, out: Path, *more: str) -> int:
    known = ["--groups", str(videos / "sources.csv"), "--targets", str(videos / "targets.csv")]
    return compare.main([str(videos), "--out", str(out), *known, *FEW, *more])


@pytest.fixture(scope="module")
def folder(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of one sound method and two broken ones; its exit status is in `status`."""
    out = tmp_path_factory.mktemp("comparison")
    rows = ["simclr@hot,temperature=0.5", f"{BROKEN}Unbuildable", f"{BROKEN}Stumbling"]
    status = run(videos, out, "--methods", *rows)
    (out / "status").write_text(str(status))
    return out


def lines_of(folder: Path) -> dict[str, dict]:
    return {line["name"]: line for line in json.loads((folder / "comparison.json").read_text())["rows"]}


def test_every_row_is_there_and_broken_ones_say_why(folder: Path) -> None:
    lines = lines_of(folder)
    baselines = ["raw pixels", "frame differences", "untrained small-motion"]
    assert set(lines) == {"simclr@hot", "Unbuildable", "Stumbling", *baselines}
    assert [name for name, line in lines.items() if line["baseline"]] == baselines
    assert lines["Unbuildable"]["failures"] == {"Unbuildable": "RuntimeError: no wings"}
    assert lines["Stumbling"]["failures"] == {"Stumbling-seed0": "torch.OutOfMemoryError: far too large"}
    assert set(lines["simclr@hot"]["leads"]["ridge"]) == set(baselines)
    assert (folder / "status").read_text() == "1"  # rows are missing
    (seed,) = lines["simclr@hot"]["seeds"]
    assert seed["steps"] >= 1
    assert seed["minutes"] >= 0.02
    assert seed["memory_mib"] > 50
    assert seed["parameters"] < seed["trained_parameters"]
    assert lines["frame differences"]["ridge"]["targets"]["speed"] > 0.6
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    shown = (folder / "comparison.md").read_text()
    assert "| Unbuildable | small-motion | failed |" in shown
    assert "- failed: Unbuildable: RuntimeError: no wings" in shown
    assert "| R² of | speed | luck |" in shown
    assert "disjoint in the groups of" in shown


def test_rows_are_judged_as_evaluate_judges_them(folder: Path, videos: Path, tmp_path: Path) -> None:
    config = evaluate.Config(
        folder / "runs" / "simclr@hot-seed0",
        videos,
        groups=videos / "sources.csv",
        folds=3,
        seeds=2,
        random_encoders=1,
        out=tmp_path,
        device="cpu",
        workers=0,
    )
    theirs = {row["features"]: row for row in evaluate.evaluate(config)["rows"]}
    lines = lines_of(folder)
    for name, other in (
        ("simclr@hot", "simclr"),
        ("raw pixels", "raw pixels"),
        ("frame differences", "frame differences"),
        ("untrained small-motion", "random encoder"),
    ):
        for probe in ("linear", "knn"):
            assert lines[name][probe]["mean"] == theirs[other][probe]["mean"]
        assert lines[name]["rankme"] == pytest.approx(theirs[other]["rankme"])


def test_what_is_finished_is_not_done_again(folder: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder / "runs" / "simclr@hot-seed0" / "model.safetensors"
    before = os.stat(model).st_mtime_ns, lines_of(folder)["simclr@hot"]
    assert run(videos, folder, "--methods", "simclr@hot,temperature=0.5") == 0
    assert "0 trainings" in capsys.readouterr().out
    assert (os.stat(model).st_mtime_ns, lines_of(folder)["simclr@hot"]) == before


def test_rows_of_earlier_calls_stay_in_the_table(folder: Path, videos: Path) -> None:
    before = lines_of(folder)["simclr@hot"]
    assert run(videos, folder, "--methods", f"{BROKEN}Unbuildable") == 1
    assert lines_of(folder)["simclr@hot"] == before


def test_other_settings_need_another_folder_or_label(folder: Path, videos: Path) -> None:
    with pytest.raises(VidsslError, match=r"begun with other settings \(lr: 0.0003 then\)"):
        run(videos, folder, "--methods", "simclr@hot,temperature=0.5", "--lr", "0.1")
    with pytest.raises(VidsslError, match="holds a row simclr@hot of other settings"):
        run(videos, folder, "--methods", "simclr@hot,temperature=0.1")


def test_mistakes_are_answered_before_anything_is_trained(videos: Path, tmp_path: Path) -> None:
    cases = [
        (["--methods", "simclr,temprature=1"], "unknown simclr option 'temprature'"),
        (["--methods", "simclr,encoder=huge"], "unknown encoder 'huge'"),
        (["--methods", "no.such:Method"], "write it as module:Class"),
        (["--methods", "simclr", "--minutes", "0"], "--minutes: got 0.0; above 0"),
        (["--methods", "simclr", "--seeds", "1", "1"], "each once"),
        (["--methods", "simclr", "--jobs", "0"], "--jobs: got 0; at least 1"),
        (["--methods", "simclr", "--device", "tpu"], "auto, cpu, cuda"),
        (["--methods", "simclr", "--stride", "0"], "--stride: got 0; at least 1"),
        (["--methods", "simclr", "--groups", "nothere.csv"], "--groups: nothere.csv is not there"),
    ]
    for arguments, message in cases:
        with pytest.raises(VidsslError, match=message):
            run(videos, tmp_path / "out", *arguments)
    assert not list(tmp_path.glob("out/runs/*"))


def test_a_packed_cache_serves_as_data(folder: Path, videos: Path, tmp_path: Path) -> None:
    other = tmp_path / "cache"
    other.symlink_to(folder / "cache")
    with pytest.raises(VidsslError, match="a cache of frames \\(32, 32\\); pass --size 32"):
        compare.main([str(other), "--out", str(tmp_path / "out"), "--methods", "simclr", "--size", "64"])
    known = ["--groups", str(videos / "sources.csv"), "--targets", str(videos / "targets.csv")]
    again = [str(other), "--out", str(folder), *known, *FEW, "--methods", "simclr@hot,temperature=0.5"]
    assert compare.main(again) == 0  # the same videos, so the same rows


def test_all_is_what_videos_can_teach(tmp_path: Path) -> None:
    rows = parse_rows(["all"], list(METHODS), video_methods())
    assert {row.name for row in rows} == METHODS.keys() - {"equivariant"}
    (told,) = parse_rows(["equivariant"], list(METHODS), video_methods())  # a name that there is
    planned = plan_row(told, compare.Config(data=tmp_path, out=tmp_path, methods=("equivariant",)))
    assert planned.architecture is None
    assert "learns from known rotations between frames" in str(planned.failure)
