"""The one exception type that means "the user can mend this"."""


class VidsslError(Exception):
    """A mistake in input or settings. The message says what was got, what is allowed and what to do next.

    The `vidssl` command prints it without a traceback and exits with status 2.
    """


def unknown_name(kind: str, got: str, known: object) -> VidsslError:
    """The error for a name that is in no registry: lists the valid ones.

    Args:
        kind: what was asked for, e.g. `"method"`.
        got: the name that was given.
        known: any iterable of valid names (a registry dict will do).
    """
    return VidsslError(f"unknown {kind} {got!r}; the {kind}s here are: {', '.join(sorted(map(str, known)))}")  # type: ignore[call-overload]
