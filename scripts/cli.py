"""The `vidssl` command: one subcommand a module of `scripts/`."""

import errno
import importlib
import os
import signal
import sys
from types import FrameType

# Threads of torch that spin long while they wait for each other halve a training beside other work; a short spin loses
# nothing without it. Read when torch is imported; child processes inherit it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

COMMANDS = {
    "pretrain": "train an encoder on a folder of videos",
    "evaluate": "probe a run on labelled videos, beside honest baselines",
    "compare": "train many methods alike and judge them side by side",
    "doctor": "tell whether runs collapsed, how and why",
    "list": "name the methods, encoders, environments and controllers",
    "extract": "write the features of a folder of videos",
    "import-encoder": "make a run of a network that others have trained, to compare with",
    "export": "write a run's encoder as ONNX or compiled, for a controller",
    "self-label": "label videos by clusters of a run's features",
    "record": "record episodes of an environment, as MP4 or a LeRobot data set",
    "import-pusht": "write the Push-T demonstrations as a LeRobot data set",
    "robot-eval": "judge features by the policies built on them",
    "robot-report": "draw evaluations of robots on one page",
    "robot-rl": "learn a policy on a run's features by reinforcement",
    "lag-study": "success against round-trip delay, driven from afar and on board",
    "train-world-model": "learn a world model of Two Rooms and the planner in it",
    "train-rotation": "learn the rotation between depth views of objects never seen",
    "rotation-pairs": "write pairs of depth views with the rotation between them",
    "evaluate-rotation": "judge rotation estimators on pairs of views",
    "reorient": "turn unseen objects to a goal picture, in a closed loop",
    "train-views2d": "learn the rotation between pictures without depth",
    "pretrain-views": "train an encoder on rendered views in known rotations",
    "pretrain-points": "contrast point clouds of views with each other and with pictures",
    "rotation-probe": "tell how well frozen features predict rotations",
    "physics": "generate videos of moving objects, with the truth about them",
    "moving-mnist": "write Moving MNIST as videos",
    "demo": "the whole path on generated data, with a report",
}


def main(argv: list[str] | None = None) -> int:
    """Run `vidssl COMMAND …`; returns the exit status. A user's mistake prints one message and gives 2."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: vidssl COMMAND [options]   (vidssl COMMAND --help explains one)\n")
        print("\n".join(f"  {name:<17} {what}" for name, what in COMMANDS.items()))
        return 0
    if argv[0] in ("-V", "--version"):
        from vidssl import __version__

        print(f"vidssl {__version__}")
        return 0
    from vidssl.errors import VidsslError, unknown_name

    before = signal.signal(signal.SIGTERM, _end)
    try:
        if argv[0] not in COMMANDS:
            raise unknown_name("command", argv[0], COMMANDS)
        module = importlib.import_module(f"vidssl.scripts.{argv[0].replace('-', '_')}")
        return module.main(argv[1:]) or 0
    except VidsslError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `vidssl … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor shall the last flush complain
        return 141
    except OSError as error:  # a folder that can't be made, a disk that is full
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}; choose another path or fix it", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: what is half-written is removed on the way out."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
