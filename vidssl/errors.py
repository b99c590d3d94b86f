"""The one exception type that means "the user can mend this"."""

from collections.abc import Iterable


class VidsslError(Exception):
    """A mistake in input or settings. The message says what was got, what is allowed and what to do next.

    The `vidssl` command prints it without a traceback and exits with status 2.
    """


def unknown_name(kind: str, got: str, known: Iterable[str]) -> VidsslError:
    """The error for a name that is in no registry: lists the valid ones.

    Args:
        kind: what was asked for, e.g. `"method"`.
        got: the name that was given.
        known: any iterable of valid names (a registry dict will do).
    """
    plural = kind[:-1] + "ies" if kind.endswith("y") else kind + "s"
    return VidsslError(f"unknown {kind} {got!r}; the {plural} here are: {', '.join(sorted(known))}")
