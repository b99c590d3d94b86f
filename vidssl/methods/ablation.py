"""Settings in which a method is known to collapse: what its tests and the collapse doctor's test set break."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Collapse = Literal["constant", "dimensional"]


@dataclass(frozen=True)
class Ablation:
    """One way to break a method.

    Attributes:
        name: what is taken away, in words.
        options: the method's options that take it away.
        collapse: what happens then: `"constant"`, all features agree; `"dimensional"`, they span a small subspace.
        cause: the doctor's word for it, a key of `vidssl.evaluate.doctor.CAUSES`.
    """

    name: str
    options: Mapping[str, Any]
    collapse: Collapse
    cause: str
