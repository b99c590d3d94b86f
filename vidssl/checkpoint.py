"""The run folder: what training leaves behind, written so that a kill leaves the old file or the new one.

config.json          versioned: encoder, context, preprocessing, method, data and its hash, seed
model.safetensors    the exported encoder (and context)
trainer.pt           everything that resuming needs; tensors and plain values only
metrics.jsonl        one line a logged step
"""

import errno
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from vidssl.errors import VidsslError

if TYPE_CHECKING:
    from torch import Tensor

RUN_VERSION = 1


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write; renames it to `path` when the block ends well, removes it when not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        space = "free some space or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        raise VidsslError(f"cannot write {path}: {error.strerror}; {space}choose another --out") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path: Path) -> None:
    """Say before the work, not after it, that a file could not be written: its folders are made later, if need be.

    Raises:
        VidsslError: `path` is a folder, or the nearest folder above that exists is a file or takes no new files.
    """
    if os.path.isdir(path):
        raise VidsslError(f"cannot write {path}: it is a folder; name a file")
    above = next(folder for folder in path.parents if os.path.exists(folder))
    if not above.is_dir():
        raise VidsslError(f"cannot write {path}: {above} is no folder; choose another --out")
    try:
        with TemporaryFile(dir=above):  # tried, since root may write everywhere, and yet not into /proc
            pass
    except OSError as error:
        raise VidsslError(f"cannot write {path}: {above} may not be written to; choose another --out") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON (sorted keys, indented) whole, then rename."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_config(run: Path, config: dict[str, Any]) -> None:
    """Write `config.json` of a run folder, stamped with the format's version."""
    write_json(run / "config.json", {"version": RUN_VERSION, **config})


def read_config(run: str | Path, made_by: str = "vidssl pretrain") -> dict[str, Any]:
    """The `config.json` of a run folder; `made_by` is the command whose run is wanted.

    Raises:
        VidsslError: not a run folder, unreadable, or written by another version of the format.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise VidsslError(f"{run} is no run folder: it has no config.json; pass the --out folder of `{made_by}`")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VidsslError(f"{path} is not JSON ({error}); restore it or train again") from error
    version = config.get("version") if isinstance(config, dict) else None
    if version != RUN_VERSION:
        raise VidsslError(
            f"{path}: run folder version {version!r}, this vidssl reads version {RUN_VERSION}; "
            "use the vidssl release that wrote it or train again"
        )
    return config


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, each with `step`; none where nothing is logged yet.

    A last line that a kill cut short is left out.

    Raises:
        VidsslError: a line is damaged.
    """
    path = Path(run) / "metrics.jsonl"
    texts = path.read_text(errors="replace").split("\n")[:-1] if path.is_file() else []
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line: dict[str, Any] = json.loads(text)
            line["step"]  # every line has it
        except (ValueError, KeyError, TypeError) as error:
            raise VidsslError(f"{path}, line {number}, is damaged ({error!r}); delete the line, or the file") from error
        lines.append(line)
    return lines


def write_tensors(path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole, then rename."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with replacing(path) as temporary:  # the bytes are written here: safetensors' own errors don't tell a full disk
        temporary.write_bytes(content)


def write_model(run: Path, tensors: "dict[str, Tensor]") -> None:
    """Write `model.safetensors` of a run folder."""
    write_tensors(run / "model.safetensors", tensors)


def read_model(run: str | Path) -> "dict[str, Tensor]":
    """The weights in `model.safetensors` of a run folder; raises VidsslError when absent or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(run) / "model.safetensors"
    if not path.is_file():
        raise VidsslError(f"{path} is missing; the run has not saved a model yet: let its training reach a checkpoint")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise VidsslError(f"{path} is damaged ({error}); restore it or train again") from error


def write_state(run: Path, state: dict[str, Any]) -> None:
    """Write `trainer.pt` of a run folder: tensors, numbers, strings, and lists and dicts of them."""
    import torch

    content = io.BytesIO()
    torch.save(state, content)
    with replacing(run / "trainer.pt") as temporary:
        temporary.write_bytes(content.getbuffer())


def read_state(run: Path) -> dict[str, Any] | None:
    """What `write_state` wrote, on the CPU; None when there is no checkpoint yet. VidsslError when it is damaged."""
    import pickle

    import torch

    path = run / "trainer.pt"
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or "it is empty"
        raise VidsslError(f"{path} is damaged ({reason}); restore it or train again") from error
    return state
