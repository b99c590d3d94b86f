"""Methods and encoders that live outside this package, by `"module:Name"`."""

import importlib
from typing import Any

from vidssl.errors import VidsslError


def import_named(kind: str, name: str, form: str = "module:Class") -> Any:
    """What `"module:Name"` names.

    Args:
        kind: what is asked for, e.g. `"method"`.
        name: of a module that is installed or on PYTHONPATH, and of something in it.
        form: how such a name is written, for the error.

    Raises:
        VidsslError: the module or the name in it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise VidsslError(f"{kind} {name!r}: {error}; write it as {form} and put the module on PYTHONPATH") from error
