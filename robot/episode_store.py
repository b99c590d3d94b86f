"""Finished episodes of one controller on disk, so that an interrupted evaluation goes on where it was.

One safetensors file holds them all: actions float32 [T,A] under the episode's index, everything else as JSON in the
metadata, with the settings that the episodes are a function of. It is written whole and then renamed: a kill leaves the
old file or the new one, and at most the last seconds of episodes are run again. Broken episodes (see
`EpisodeResult.broken`) are forgotten when it is read; where there are no others, the mending may change the settings.
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from vidssl.checkpoint import replacing
from vidssl.errors import VidsslError

from .rollout import EpisodeResult

EVERY = 2.0  # seconds between two writings


class EpisodeStore:
    """The episodes in `file`, of an evaluation with `settings` (JSON-able).

    Raises VidsslError when the file is damaged, or holds episodes of other settings.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self._file, self._settings = file, as_json(settings)
        self._episodes: dict[int, EpisodeResult] = {}
        self._written, self._dirty = 0.0, False
        if file.exists():
            self._read()

    def _read(self) -> None:
        with _opened(self._file) as (content, settings, rows):
            for index, row in rows.items():
                episode = EpisodeResult(**row, actions=content.get_tensor(index))
                if not episode.broken:
                    self._episodes[int(index)] = episode
        if self._episodes:
            refuse_changes(self._file, settings, self._settings)

    def known(self) -> dict[int, EpisodeResult]:
        """The episodes kept so far, by index."""
        return dict(self._episodes)

    def add(self, index: int, episode: EpisodeResult) -> None:
        """Keep one more; written at the latest by `flush`."""
        self._episodes[index] = episode
        self._dirty = True
        if time.monotonic() - self._written > EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet written."""
        if not self._dirty:
            return
        rows = {}
        for index, episode in sorted(self._episodes.items()):
            rows[str(index)] = {key: value for key, value in vars(episode).items() if key != "actions"}
        tensors = {str(index): episode.actions for index, episode in self._episodes.items()}
        facts = {"settings": json.dumps(self._settings), "episodes": json.dumps(rows)}
        with replacing(self._file) as part:
            part.write_bytes(safetensors.numpy.save(tensors, facts))
        self._written, self._dirty = time.monotonic(), False


def take_over(file: Path, earlier: Iterable[Path], settings: Mapping[str, Any]) -> Path | None:
    """Begin `file`, where there is none, with the first of the `earlier` files whose episodes have the same settings.

    Returns the file that was taken, None where there is none to take. Raises VidsslError when one of them is damaged.
    """
    if file.exists():
        return None
    for kept in filter(Path.exists, earlier):
        with _opened(kept) as (_, was, _):
            same = was == as_json(settings)
        if same:
            with replacing(file) as part:
                shutil.copyfile(kept, part)
            return kept
    return None


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """The open file, its settings and its episodes' rows by index; VidsslError when it is damaged."""
    try:
        with safetensors.safe_open(file, "np") as content:
            facts = content.metadata()
            yield content, json.loads(facts["settings"]), json.loads(facts["episodes"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise VidsslError(f"{file}: damaged ({error}); delete it, and its episodes are run again") from None


def refuse_changes(where: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises VidsslError, with both values, when what lies at `where` was made with other settings."""
    if changed := sorted(key for key in {*was, *now} if was.get(key) != now.get(key)):
        both = "; ".join(f"{key}: was {was.get(key)!r}, now {now.get(key)!r}" for key in changed)
        raise VidsslError(
            f"{where} was made with other settings ({both}); give the same ones, another --out, "
            "or --overwrite to start afresh"
        )


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a JSON file, tuples as lists."""
    content: dict[str, Any] = json.loads(json.dumps(settings))
    return content
