"""Self-supervised learning from video and depth, exported into robot controllers.

>>> import vidssl
>>> enc = vidssl.load_encoder("runs/mine")      # a FeatureExtractor
>>> features = enc(frames)                      # uint8 [T,H,W,3] -> float32 [T,dim]
>>> feature = enc.step(frame)                   # uint8 [H,W,3] -> float32 [dim], one camera frame a tick
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["FeatureExtractor", "VidsslError", "__version__", "load_encoder", "load_energy", "load_exported"]

from vidssl.errors import VidsslError

if TYPE_CHECKING:
    from vidssl.energy import load_energy
    from vidssl.exported import load_exported
    from vidssl.features import FeatureExtractor, load_encoder


def __getattr__(name: str) -> Any:  # torch is imported when it is first needed, not by `import vidssl`
    if name in ("FeatureExtractor", "load_encoder"):
        from vidssl import features

        return getattr(features, name)
    if name == "load_energy":
        from vidssl import energy

        return energy.load_energy
    if name == "load_exported":
        from vidssl import exported

        return exported.load_exported
    raise AttributeError(f"module 'vidssl' has no attribute {name!r}")


def __dir__() -> list[str]:  # what is not imported yet shows too, in a shell's completion
    return sorted({*globals(), *__all__})
