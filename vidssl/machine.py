"""What this machine gives to a process."""

import os
from collections.abc import Iterable
from importlib import metadata


def cores() -> int:
    """CPU cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of the packages, by their distribution's name, that are installed; in the order given."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
