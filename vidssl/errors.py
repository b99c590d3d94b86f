"""The one exception type that means "the user can mend this"."""

from collections.abc import Iterable
from difflib import get_close_matches


class VidsslError(Exception):
    """A mistake in input or settings. The message says what was got, what is allowed and what to do next.

    The `vidssl` command prints it without a traceback and exits with status 2.
    """


def unknown_name(kind: str, got: str, known: Iterable[str]) -> VidsslError:
    """The error for a name that is in no registry: lists the valid ones, and says which one was likely meant.

    Args:
        kind: what was asked for, e.g. `"method"`.
        got: the name that was given.
        known: any iterable of valid names (a registry dict will do).
    """
    plural = kind[:-1] + "ies" if kind.endswith("y") else kind + "s"
    names = sorted(known)
    folded = {name.lower(): name for name in names}
    meant = "".join(f"; did you mean {folded[near]}?" for near in get_close_matches(got.lower(), folded, 1))
    return VidsslError(f"unknown {kind} {got!r}; the {plural} here are: {', '.join(names)}{meant}")


def install_extra(extra: str) -> str:
    """How to install an optional part: in a checkout as scripts/setup.sh does, elsewhere by pip."""
    return f"pip install 'vidssl[{extra}]', or in a checkout: .tools/bin/uv sync --frozen --extra {extra}"
