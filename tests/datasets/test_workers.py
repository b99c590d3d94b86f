"""Workers under fork and spawn: results, failures, kills, and nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stubs import sleeper, slow_but_alive, task

from vidssl.datasets.files import VideoFile
from vidssl.datasets.quarantine import Quarantine
from vidssl.datasets.scan import scan_videos
from vidssl.datasets.workers import Failure, WorkerPool
from vidssl.errors import VidsslError


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_results_failures_and_kills(start: str) -> None:
    jobs = ["array", "bad file", "hang", "number", "crash", "bug", "number"]
    with WorkerPool(task, workers=2, deadline=1.0, start=start) as pool:
        answers = dict(pool.run((place, (what, place)) for place, what in enumerate(jobs)))
        assert pool.busy == 0
    np.testing.assert_array_equal(answers[0], np.zeros((2, 3), np.uint8))
    assert answers[3] == 3
    assert answers[6] == 6
    assert answers[1] == Failure("a.mp4: cut short")
    assert answers[5] == Failure("ZeroDivisionError: oh")
    assert "no answer within 1 s" in answers[2].reason
    assert answers[4].reason == "the decoder crashed (exit status -9)"
    assert multiprocessing.active_children() == []


def test_a_long_task_that_goes_on_is_not_killed() -> None:
    with WorkerPool(slow_but_alive, workers=1, deadline=1.5, start="fork") as pool:
        assert list(pool.run([("a", (15,))])) == [("a", 15)]  # twice its deadline


def test_a_pause_of_everybody_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped with its parent for longer than its deadline (Ctrl-Z), a worker goes on; alone, it is killed."""
    monkeypatch.setattr("vidssl.datasets.workers.PAUSE", 0.5)
    with WorkerPool(sleeper, workers=1, deadline=1.5, start="fork") as pool:
        for stopped_with, expected in (("parent", "slept"), ("nobody", "no answer within 1.5 s")):
            while not pool._workers[0].ready:
                pool.poll(0.05)
            pool.submit(stopped_with, 1.0)
            pool.poll(0.1)
            pid = pool._workers[0].process.pid
            os.kill(pid, signal.SIGSTOP)
            if stopped_with == "parent":
                time.sleep(2.5)  # this process is not running either, as far as the pool can tell
                os.kill(pid, signal.SIGCONT)
            answers: list[tuple[object, object]] = []
            while not answers:
                answers = pool.poll(0.1)
            (answer,) = answers
            assert expected in str(answer[1])


def test_a_busy_parent_does_not_keep_a_hanging_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidssl.datasets.workers.PAUSE", 0.2)
    with WorkerPool(task, workers=1, deadline=0.5, start="fork") as pool:
        while not pool._workers[0].ready:
            pool.poll(0.05)
        pool.submit("a", "hang", 0)
        answers: list[tuple[object, object]] = []
        for _ in range(4):  # of 0.6 s: forgiven once, then killed
            time.sleep(0.6)
            answers += pool.poll(0.01)
        assert "no answer within 0.5 s" in str(answers[0][1])


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, signal\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from stubs import task\n"
        "from vidssl.datasets.workers import WorkerPool\n"
        "pool = WorkerPool(task, 2, 5.0, 'fork')\n"
        "print(*[worker.process.pid for worker in pool._workers], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    parent = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert parent.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in parent.stdout.split()]
    assert len(pids) == 2

    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    limit = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_quarantine_is_kept_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run" / "quarantine.csv"
    quarantine = Quarantine(file, max_failed=0.2)
    quarantine.add("a.mp4", "cut short, holds 3, of 8", step=7)
    quarantine.add("a.mp4", "cut short, holds 3, of 8", step=7)
    quarantine.skip({"b.mp4": "shorter than a clip"})
    assert capsys.readouterr().err.count("left out: a.mp4") == 1
    quarantine.check(5)  # 1 of 5 is not over 20%; the short one is no failure
    with pytest.raises(VidsslError, match=r"1 of 4 videos can't be used \(more than 20% failed\)"):
        quarantine.check(4)
    with pytest.raises(VidsslError, match="none of the files is usable"):
        Quarantine(file, max_failed=1.0).check(2)
    assert file.read_text().splitlines() == [
        "path,reason,step",
        'a.mp4,"cut short, holds 3, of 8",7',
        "b.mp4,shorter than a clip,",
    ]
    again = Quarantine(file)
    assert again.failed_before(7) == {"b.mp4"}  # before training
    assert again.failed_before(8) == {"a.mp4", "b.mp4"}
    again.add("a.mp4", "its middle can't be read")  # a resumed run looks at it before it trains
    assert again.failed_before(7) == {"b.mp4"}, "what failed at step 7 is not to fail earlier the second time"
    assert [path.name for path in file.parent.iterdir()] == ["quarantine.csv"]
    file.write_text("something else\n")
    with pytest.raises(VidsslError, match="expected the columns"):
        Quarantine(file)
    for garbled in (b"path,reason,step\na.mp4,cut short,soon\n", b"path,reason,step\n\xfc.mp4,cut short,\n"):
        file.write_bytes(garbled)
        with pytest.raises(VidsslError, match="garbled"):
            Quarantine(file)


def test_many_unfit_files_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.csv")
    writes: list[int] = []
    write = quarantine._write
    monkeypatch.setattr(quarantine, "_write", lambda: (writes.append(len(quarantine)), write()))
    for _ in range(2):
        quarantine.skip({f"{number}.mp4": "shorter than a clip" for number in range(50)})
    assert writes == [50]


def test_files_of_an_earlier_folder_do_not_count(tmp_path: Path) -> None:
    """A start on a folder of broken videos, then one on another folder: the list holds the second one's files only."""
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_text("no video")
    file = tmp_path / "run" / "quarantine.csv"
    old = [VideoFile(tmp_path / name, name) for name in ("a.mp4", "b.mp4")]
    with pytest.raises(VidsslError, match="2 of 2 videos can't be used"):
        scan_videos(old, Quarantine(file), workers=0, progress=False)
    new = [VideoFile(tmp_path / "c.mp4", "c.mp4")]
    with pytest.raises(VidsslError, match="1 of 1 videos can't be used") as caught:
        scan_videos(new, Quarantine(file), workers=0, progress=False)
    assert "a.mp4" not in str(caught.value)
    assert [line.split(",")[0] for line in file.read_text().splitlines()] == ["path", "c.mp4"]
