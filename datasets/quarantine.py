"""Files that were left out, with the reason: listed in `quarantine.csv`, said once, never replaced by others."""

import csv
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from vidssl.checkpoint import replacing
from vidssl.errors import VidsslError

COLUMNS = ("path", "reason", "step")


class Quarantine:
    """The files that failed and why.

    Args:
        file: where to keep the list (CSV: path, reason, step); None keeps it in memory. A list that is there is read.
        max_failed: the share of the files that may fail.
    """

    def __init__(self, file: str | Path | None = None, max_failed: float = 0.2):
        if not 0 <= max_failed <= 1:
            raise VidsslError(f"max_failed: expected a share in 0..1, got {max_failed}")
        self.file = None if file is None else Path(file)
        self.max_failed = max_failed
        self.reasons: dict[str, str] = {}
        self.steps: dict[str, int | None] = {}
        self.unfit: set[str] = set()
        if self.file is not None and self.file.exists():
            self._load(self.file)

    def __len__(self) -> int:
        return len(self.reasons)

    def __contains__(self, name: str) -> bool:
        return name in self.reasons

    def add(self, name: str, reason: str, step: int | None = None) -> None:
        """List a file, once, and say so.

        Args:
            name: the video's name.
            reason: why it is left out.
            step: the training step it failed at; None when it failed before training.
        """
        if self._list(name, reason, step):
            self._write()

    def skip(self, reasons: Mapping[str, str]) -> None:
        """List sound files that are of no use here, and why; they do not count as failed."""
        self.unfit.update(reasons)
        new = sum(self._list(name, reason, None) for name, reason in reasons.items())
        if new:
            self._write()

    def _list(self, name: str, reason: str, step: int | None) -> bool:
        if name in self.reasons and ((self.reasons[name], self.steps[name]) == (reason, step) or step is None):
            return False  # known; what failed in training is not to lose its step when a resumed run looks at it first
        self.reasons[name], self.steps[name] = reason, step
        print(f"left out: {name}: {reason}", file=sys.stderr, flush=True)
        return True

    def mended(self, names: Iterable[str]) -> None:
        """Take files off the list that were put there before training and have turned out well this time."""
        gone = [name for name in names if name in self.reasons and self.steps[name] is None]
        for name in gone:
            del self.reasons[name], self.steps[name]
        if gone:
            self._write()

    def failed_before(self, step: int) -> set[str]:
        """Names of the files that failed before training, or in it before `step`: a resumed run leaves out what the
        first one did."""
        return {name for name, failed in self.steps.items() if failed is None or failed < step}

    def keep_only(self, names: Iterable[str]) -> None:
        """Take files off the list that are not in the data: an earlier start may have been on another folder."""
        gone = self.reasons.keys() - set(names)
        for name in gone:
            del self.reasons[name], self.steps[name]
        if gone:
            self._write()

    def check(self, total: int) -> None:
        """Stop when too many failed.

        Args:
            total: number of files, failed ones included.

        Raises:
            VidsslError: more than `max_failed` of the files failed, or all.
        """
        bad = [name for name in self.reasons if name not in self.unfit]
        failed = len(bad)
        if failed and (failed >= total or failed > self.max_failed * total):
            shown = "\n".join(f"  {name}: {self.reasons[name]}" for name in bad[:5])
            none = "none of the files is usable" if failed >= total else f"more than {self.max_failed:.0%} failed"
            listed = f"; all are in {self.file}" if self.file else ""
            raise VidsslError(f"{failed} of {total} videos can't be used ({none}){listed}\n{shown}")

    def _load(self, file: Path) -> None:
        garbled = f"{file}: garbled ({{}}); move the file away to begin a new list"
        try:
            with file.open(newline="", encoding="utf-8") as lines:
                rows = list(csv.reader(lines))
        except (ValueError, csv.Error) as error:
            raise VidsslError(garbled.format(error)) from error
        if not rows or tuple(rows[0]) != COLUMNS:
            raise VidsslError(
                f"{file}: expected the columns {','.join(COLUMNS)}; move the file away to begin a new list"
            )
        try:
            for name, reason, step in rows[1:]:
                self.reasons[name], self.steps[name] = reason, int(step) if step else None
        except ValueError as error:
            raise VidsslError(garbled.format(error)) from error

    def _write(self) -> None:
        if self.file is None:
            return
        with replacing(self.file) as part, part.open("w", newline="", encoding="utf-8") as out:
            rows = csv.writer(out)
            rows.writerow(COLUMNS)
            rows.writerows(
                (name, reason, "" if self.steps[name] is None else self.steps[name])
                for name, reason in self.reasons.items()
            )
