"""`vidssl pretrain` as processes: two ranks learn what one learns; SIGTERM saves, and `--resume` completes.

Each of the W = 2 ranks takes half of every batch of clips and contrasts its anchors with the keys of both, so the
gradient is that of the whole batch: what is left between the runs is rounding.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vidssl.checkpoint import read_model

sys.path.append(str(Path(__file__).parent / "datasets"))
from footage import write_video

# AdamW moves a weight by up to lr whatever the size of its gradient, so where that is nothing but rounding the runs may
# differ by a part of lr: it is kept at ten times the bound of the comparison.
SETTINGS = (
    "--lr 1e-4 --encoder small --size 32 --frames 6 --stride 1 --batch-size 4 --workers 1 --device cpu "
    "--monitor-every 999"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 12 to 32 frames in `videos`; the first run leaves their packed cache in `cache`."""
    folder = tmp_path_factory.mktemp("ranks")
    for number in range(6):
        write_video(folder / "videos" / f"{number}.mp4", 12 + 4 * number)
    return folder


def start(folder: Path, out: str, steps: int, *more: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The command in a session of its own, one thread a rank, from files of `folder`."""
    command = [sys.executable, *launcher, "-m", "vidssl.scripts.cli", "pretrain", "videos", "--cache", "cache"]
    command += ["--out", out, "--steps", str(steps), *SETTINGS.split(), *more]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and what was printed; a run that hangs is killed with all its ranks."""
    try:
        output = process.communicate(timeout=100)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"the run hangs: {process.communicate()[0]}") from None
    return process.returncode, output


def stop_at_second_metrics(process: subprocess.Popen[str], run: Path) -> tuple[int, str]:
    """SIGTERM to the process that was started, and to no other rank, once it has trained some steps."""
    deadline = time.monotonic() + 60
    metrics = run / "metrics.jsonl"
    lines = 0
    while time.monotonic() < deadline and process.poll() is None and lines < 2:  # of steps 1 and 10
        time.sleep(0.02)
        lines = metrics.read_text().count("\n") if metrics.exists() else 0
    process.terminate()
    return end(process)


def assert_close(one: Path, other: Path) -> None:
    first, second = read_model(one), read_model(other)
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(first_moments(one), first_moments(other), strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * mine.abs().max()


def first_moments(run: Path) -> list[torch.Tensor]:
    """AdamW's running means of the gradients: linear in them, so a gradient off by any factor shows in full."""
    state = torch.load(run / "trainer.pt", weights_only=True)["optimizer"]["state"]
    return [moments["exp_avg"] for moments in state.values()]


def logged_loss(run: Path) -> float:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"]


@pytest.fixture(scope="module")
def one_process(folder: Path) -> Path:
    status, output = end(start(folder, "one", 6))
    assert status == 0, output
    return folder / "one"


def test_two_ranks_learn_what_one_process_learns(folder: Path, one_process: Path) -> None:
    status, output = end(start(folder, "two", 6, "--devices", "2"))
    assert status == 0, output
    assert "6 steps in" in output
    assert_close(one_process, folder / "two")
    one, two = (logged_loss(run) for run in (one_process, folder / "two"))
    assert one == pytest.approx(two, rel=1e-5), "the loss of the whole batch is logged"


def test_torchrun_needs_no_further_settings(folder: Path, one_process: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    status, output = end(start(folder, "torchrun", 6, launcher=torchrun))
    assert status == 0, output
    assert_close(one_process, folder / "torchrun")


def test_sigterm_to_one_rank_saves_and_resume_completes(folder: Path) -> None:
    steps, more = 80, ("--devices", "2")
    status, output = stop_at_second_metrics(start(folder, "stopped", steps, *more), folder / "stopped")
    assert status == 143, output
    step = torch.load(folder / "stopped" / "trainer.pt", weights_only=True)["step"]
    assert 10 <= step < steps
    assert f"stopped by SIGTERM at step {step}, saved; go on with the same command and --resume" in output
    assert "Traceback" not in output
    status, output = end(start(folder, "stopped", steps, *more, "--resume"))
    assert status == 0, output
    assert torch.load(folder / "stopped" / "trainer.pt", weights_only=True)["step"] == steps
