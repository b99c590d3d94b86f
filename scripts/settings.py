"""What commands share of their settings: switches, and `NAME=VALUE …`, checked against the parameters they are for."""

import ast
from collections.abc import Iterable, Mapping
from inspect import Parameter
from typing import Annotated, Any, get_args

import tyro

from vidssl.errors import VidsslError, unknown_name

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]  # --name, and no --no-name

KINDS: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def parse_settings(flag: str, what: str, texts: Iterable[str], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values of `["name=value", …]` by name, each of the kind of its parameter's default, or None where it may be.

    Args:
        flag: that they were given with, e.g. `"--cloning"`.
        what: one of them, e.g. `"cloning setting"`.
        texts: as given.
        known: the parameters, all with defaults.

    Raises:
        VidsslError: something other than name=value, an unknown name (lists the known), a value of another kind.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise VidsslError(f"{flag}: got {text!r}; write name=value, of {', '.join(known)}")
        if name not in known:
            raise unknown_name(what, name, known)
        found[name] = _value(f"{what} {name}", value, known[name])
    return found


def _value(what: str, text: str, parameter: Parameter) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    default, annotation = parameter.default, parameter.annotation
    if value is None and (annotation is Parameter.empty or "None" in str(annotation)):
        return None
    named = [kind for kind in get_args(annotation) if kind in KINDS] if default is None else [type(default)]
    kinds = tuple(kind for name in named for kind in KINDS.get(name, (object,))) or (object,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = f"a value like its default, {default!r}"
        if default is None:
            wanted = f"{' or '.join(kind.__name__ for kind in kinds)}, or None"
        raise VidsslError(f"{what}: got {text!r}; write {wanted}")
    return value
