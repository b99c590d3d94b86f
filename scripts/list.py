"""Every name that commands take: methods, encoders, environments, kinds of saved controllers, with a line of each.

Example:

    vidssl list          # all of them

A method or an encoder of yours is named module:Name, a model of the timm library timm:NAME.
"""

import importlib
import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import tyro


@dataclass
class Config:
    """See the text above."""


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    tyro.cli(Config, args=argv, prog="vidssl list", description=__doc__)
    for title, names in listed().items():
        print(title)
        print("\n".join(f"  {name:<22} {about}" for name, about in names.items()))


def listed() -> dict[str, dict[str, str]]:
    """Kind -> name -> the first line of its docstring."""
    from vidssl.encoders import ENCODERS
    from vidssl.methods import METHODS
    from vidssl.robot.controller_files import CONTROLLERS
    from vidssl.robot.registration import ENVIRONMENTS, VARIANTS

    variants = {
        name: f"{base} with " + ", ".join(f"{key}={value}" for key, value in options.items())
        for name, (base, options) in VARIANTS.items()
    }
    return {
        "methods (--method)": {name: _about(made) for name, made in METHODS.items()},
        "encoders (--encoder)": {name: _about(made) for name, made in ENCODERS.items()},
        "environments (--env)": {name: _about(_found(place)) for name, place in ENVIRONMENTS.items()} | variants,
        "saved controllers": {name: _about(_found(place)) for name, place in CONTROLLERS.items()},
    }


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _about(made: Any) -> str:
    """The first line of a docstring, and the settings that a partial fixes."""
    if not isinstance(made, partial):
        return (inspect.getdoc(made) or "").partition("\n")[0]
    fixed = ", ".join(f"{key} {value}" for key, value in made.keywords.items())
    return _about(made.func) + (f" ({fixed})" if fixed else "")
