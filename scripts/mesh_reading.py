"""Reading the meshes of a command, with a word on stderr about each that is not taken as it is."""

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidssl.datasets.meshes import MeshSet

NAMED = 3  # meshes named beside a note that holds for many


def read_meshes(source: str | Path, limit: int | None = None) -> "MeshSet":
    """As `load_meshes`; a line for each mesh left out, and one for each thing that is unusual with those taken."""
    from vidssl.datasets.meshes import load_meshes

    found = load_meshes(source, limit)
    for name, reason in found.skipped.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    noted = defaultdict(list)
    for name, note in found.notes.items():
        noted[note].append(name)
    for note, names in noted.items():
        shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        print(f"taken all the same: {len(names)} of {len(found)} meshes ({shown}): {note}", file=sys.stderr)
    return found
