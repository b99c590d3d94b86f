"""The `vidssl` command: exit statuses, and no traceback for what a user can mend."""

import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from vidssl.errors import VidsslError, unknown_name
from vidssl.scripts import cli

# A program whose only subcommand waits: `vidssl wait`, with its own main.
WAITS = """
import signal, sys, time, types
from vidssl.scripts import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is started with it ignored
def wait(argv):
    try:
        print("waiting", flush=True)
        while True:
            time.sleep(0.05)  # a signal that comes just before a sleep is seen after it
    finally:
        print("tidied", flush=True)
sys.modules["vidssl.scripts.wait"] = types.SimpleNamespace(main=wait)
cli.COMMANDS["wait"] = "waits"
sys.exit(cli.main(["wait"]))
"""

TALKS = """
import sys, types
from vidssl.scripts import cli
def talk(argv):
    for number in range(10**6):
        print(number)
sys.modules["vidssl.scripts.talk"] = types.SimpleNamespace(main=talk)
cli.COMMANDS["talk"] = "talks"
sys.exit(cli.main(["talk"]))
"""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes `vidssl fake` do what the test wants."""

    def install(main: Callable[[list[str]], int | None]) -> None:
        module = types.ModuleType("vidssl.scripts.fake")
        module.main = main  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "vidssl.scripts.fake", module)
        monkeypatch.setitem(cli.COMMANDS, "fake", "a command of this test")

    return install


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    for name, what in cli.COMMANDS.items():
        assert name in shown
        assert what in shown


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    import vidssl

    assert cli.main([option]) == 0
    assert capsys.readouterr().out == f"vidssl {vidssl.__version__}\n"


@pytest.mark.parametrize("name", ["pretrian", "--verbose", "", "cli", "../cli"])
def test_an_unknown_command_is_answered_with_the_valid_ones(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert repr(name) in shown.err
    for valid in cli.COMMANDS:
        assert valid in shown.err


@pytest.mark.parametrize(("got", "meant"), [("pretrian", "pretrain"), ("Robot-eval", "robot-eval"), ("zzz", None)])
def test_a_mistyped_name_is_told_what_was_likely_meant(got: str, meant: str | None) -> None:
    told = str(unknown_name("command", got, cli.COMMANDS))
    assert told.endswith(f"; did you mean {meant}?") if meant else "mean" not in told


def test_threads_spin_briefly_unless_the_user_says_otherwise() -> None:
    """Set before torch is imported, and not over the user's own choice."""
    program = "import os, sys, vidssl.scripts.cli; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    cases = (({}, "10000"), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7"))
    for theirs, expected in cases:
        plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
        told = subprocess.check_output([sys.executable, "-c", program], env=plain | theirs, text=True)
        assert told == f"{expected} False\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_reads_well(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: vidssl {name}" in shown
    for slip in ("%%", "commands above", " H. ", " n. ", " K. "):
        assert slip not in shown
    assert name != "doctor" or "(default: )" not in shown, "RUN has none"


def test_the_list_of_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split(maxsplit=1)[1:] for line in shown if line.startswith("  ")}
    assert {"cpc", "small-motion", "vidssl/Rover-v0", "vidssl/RoverHard-v0", "planner"} <= rows.keys()
    assert all(rows.values()), "every name has its line"


def test_the_rest_of_the_line_reaches_the_command(command: Callable[..., None]) -> None:
    got: list[str] = []
    command(got.extend)
    assert cli.main(["fake", "DATA", "--help"]) == 0  # a command that returns None succeeded
    assert got == ["DATA", "--help"]


def test_a_commands_status_is_the_programs(command: Callable[..., None]) -> None:
    command(lambda argv: 3)
    assert cli.main(["fake"]) == 3


def test_a_users_mistake_gives_one_line_and_2(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str]) -> None:
        raise VidsslError("empty: no videos; pass a folder that has some")

    command(main)
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr() == ("", "error: empty: no videos; pass a folder that has some\n")


def test_a_defect_of_ours_keeps_its_traceback(command: Callable[..., None]) -> None:
    def main(argv: list[str]) -> None:
        raise ZeroDivisionError

    command(main)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])


def test_a_full_disk_gives_one_line_and_2(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str]) -> None:
        with open("/dev/full", "w") as full:
            full.write("x")

    command(main)
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err == "error: No space left on device; choose another path or fix it\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = [sys.executable, "-c", TALKS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("number", "status", "told"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_ctrl_c_and_sigterm_tidy_up_without_a_traceback(number: int, status: int, told: str) -> None:
    command = [sys.executable, "-c", WAITS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        try:
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status
    assert (out, error) == ("tidied\n", told)


def test_the_installed_command_runs() -> None:
    program = Path(sys.executable).with_name("vidssl" + (".exe" if os.name == "nt" else ""))
    result = subprocess.run([program, "nonsense"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "unknown command 'nonsense'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_an_unknown_option_gives_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--no-such-option", "1"])
    assert stop.value.code == 2
    assert f"vidssl {name} --help" in capsys.readouterr().err
