"""3D rotation between two views of an object never seen before, from depth or from pictures.

>>> estimator = load_estimator("runs/rotation")              # of `vidssl train-rotation`
>>> estimator.estimate(depth_a, depth_b, K).rotation         # float32 [3,3], p_b = R p_a in camera axes
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Candidate", "Estimate", "RotationEstimator", "estimate_rotation", "load_estimator"]

if TYPE_CHECKING:
    from vidssl.rotation.estimate import Candidate, Estimate, RotationEstimator, estimate_rotation, load_estimator


def __getattr__(name: str) -> Any:  # torch is imported when it is first needed: `train-rotation --help` is quick
    if name not in __all__:
        raise AttributeError(f"module 'vidssl.rotation' has no attribute {name!r}")
    from vidssl.rotation import estimate

    return getattr(estimate, name)


def __dir__() -> list[str]:  # what is not imported yet shows too, in a shell's completion
    return sorted({*globals(), *__all__})
