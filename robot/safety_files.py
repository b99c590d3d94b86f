"""Fitted dataclasses as named arrays and back: what a safety monitor's file holds, without pickle."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

import numpy as np

from vidssl.errors import VidsslError

T = TypeVar("T")
Arrays = dict[str, np.ndarray]


def pack(value: Any, name: str) -> Arrays:
    """Arrays float64 under dotted names of a dataclass of arrays, numbers, dataclasses, lists and dicts of them."""
    if value is None:
        return {}
    if dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, dict):
        parts = value
    elif isinstance(value, list):
        parts = {str(k): part for k, part in enumerate(value)}
    else:
        return {name: np.array(value, np.float64, order="C")}
    return {key: array for k, part in parts.items() for key, array in pack(part, f"{name}.{k}").items()}


def unpack(kind: Any, arrays: Arrays, name: str) -> Any:
    """The inverse of `pack` for a value of type `kind`; raises VidsslError for arrays that are missing."""
    if isinstance(kind, types.UnionType):  # X | None
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
        return unpack(kind, arrays, name) if _has(arrays, name) else None
    if typing.get_origin(kind) in (list, dict):
        keys = dict.fromkeys(
            key.removeprefix(f"{name}.").partition(".")[0] for key in arrays if key.startswith(f"{name}.")
        )
        parts = {key: unpack(typing.get_args(kind)[-1], arrays, f"{name}.{key}") for key in keys}
        return parts if typing.get_origin(kind) is dict else [parts[str(k)] for k in range(len(parts))]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: unpack(hints[f.name], arrays, f"{name}.{f.name}") for f in dataclasses.fields(kind)})  # type: ignore[operator]
    if name not in arrays:
        raise VidsslError(f"the saved monitor lacks {name!r}; fit and save it again")
    return float(arrays[name]) if kind is float else arrays[name]


def _has(arrays: Arrays, name: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for key in arrays)
