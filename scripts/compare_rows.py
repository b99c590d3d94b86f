"""The rows of a comparison, as they are written on the command line:

    METHOD[@LABEL][,SETTING=VALUE …]

    simclr                                        a method as it comes
    simclr@cold,temperature=0.05                  the same with another setting, under a label of its own
    simclr@bf16,precision=bf16                    … or in another precision
    byol,encoder=resnet18,lr=5e-4,hidden=1024     settings of training and of the method side by side
    package.module:Class@mine,widths=(64,32)      a method that lives elsewhere
    all                                           every method that no other row names without a label

A setting is one of training, see `TRAINING`, or else the method's own.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidssl.errors import VidsslError, unknown_name

FORM = "write METHOD[@LABEL][,SETTING=VALUE …], e.g. simclr@cold,temperature=0.05"
PRECISIONS, VIEWS = ("32", "bf16"), ("published", "aligned", "none")
# Settings of training that a row may have for itself. No method may have an option of such a name.
TRAINING: dict[str, Callable[[str], Any]] = {
    "accumulate": int,
    "batch_size": int,
    "clip_norm": float,
    "encoder": str,
    "lr": float,
    "lr_warmup": float,
    "precision": lambda text: _one_of(text, PRECISIONS),
    "views": lambda text: _one_of(text, VIEWS),
    "weight_decay": float,
}


@dataclass(frozen=True)
class RowSpec:
    """A row: its name in tables, the method, its settings of training, and the method's options as `NAME=VALUE`."""

    name: str
    method: str
    training: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def parse_rows(texts: Sequence[str], methods: Sequence[str], every: Sequence[str] | None = None) -> list[RowSpec]:
    """The rows asked for, in order; `methods` are the names there are, `every` those that `all` stands for, by default
    the same.

    Raises:
        VidsslError: not of the form above, an unknown method, a setting of training with a value it can't have, or two
            rows of one label.
    """
    if not texts:
        raise VidsslError(f"--methods: none given; {FORM}, or all")
    named = [parse_row(text, methods) for text in texts if text != "all"]
    taken = {row.name for row in named}
    rows = []
    explicit = iter(named)
    for text in texts:
        if text == "all":
            rows += [RowSpec(name, name) for name in (methods if every is None else every) if name not in taken]
        else:
            rows.append(next(explicit))
    twice = sorted(name for name, count in Counter(row.name for row in rows).items() if count > 1)
    if twice:
        raise VidsslError(f"--methods: two rows are called {twice[0]}; give one a label: {twice[0]}@NAME")
    return rows


def parse_row(text: str, methods: Sequence[str]) -> RowSpec:
    """One row from its text, see above."""
    head, *settings = _split(text)
    method, at, label = head.partition("@")
    if not method or (at and not re.fullmatch(r"[\w.+-]+", label)):
        raise VidsslError(f"--methods: got {text!r}; {FORM}; labels are letters, digits and . _ + -")
    if ":" not in method and method not in methods:
        raise unknown_name("method", method, [*methods, "all", "module:Class"])
    training: dict[str, Any] = {}
    options = []
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise VidsslError(f"--methods: got {setting!r} in {text!r}; {FORM}")
        if name in TRAINING:
            training[name] = _value(name, value, text)
        else:
            options.append(setting)
    return RowSpec(method.rpartition(":")[2] + at + label, method, training, tuple(options))


def _value(name: str, value: str, text: str) -> Any:
    try:
        return TRAINING[name](value)
    except ValueError as error:
        raise VidsslError(f"--methods: {name} can't be {value!r} in {text!r} ({error})") from error


def _one_of(text: str, allowed: Sequence[str]) -> str:
    if text not in allowed:
        raise ValueError(f"choose from {', '.join(allowed)}")
    return text


def _split(text: str) -> list[str]:
    """At the commas that no bracket encloses."""
    return ["".join(part) for part in _parts(text)]


def _parts(text: str) -> Iterator[list[str]]:
    part: list[str] = []
    depth = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            yield part
            part = []
        else:
            part.append(letter)
    yield part
