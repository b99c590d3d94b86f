"""What a frame of a LeRobot data set may hold: features checked, values in the form they are stored in."""

from typing import Any

import numpy as np

from vidssl.errors import VidsslError

from .lerobot_depth import to_metres
from .lerobot_format import is_depth


def checked_feature(name: str, feature: dict[str, Any]) -> dict[str, Any]:
    """A feature with all its entries."""
    kind, shape = feature.get("dtype"), list(feature.get("shape", []))
    try:
        pictures = kind in ("video", "image")
        known = pictures or kind == "string" or np.dtype(kind).kind in "biuf"
    except TypeError:
        known = False
    wrong = not known or not shape or min(shape) < 1 or "/" in name
    if pictures and not wrong:
        wrong = (
            len(shape) != 3 or shape[2] != (1 if is_depth(feature) else 3) or (kind == "image" and is_depth(feature))
        )
    if wrong or (kind == "string" and shape != [1]):
        raise VidsslError(
            f"feature {name!r}: got {kind} {shape}; expected 'video' or 'image' [H,W,3], 'video' [H,W,1] marked "
            "is_depth_map, 'string' [1] or a number type with sides of at least 1; no / in the name"
        )
    return {"names": ["height", "width", "channels"] if pictures else None} | feature | {"shape": shape}


def stored_value(name: str, feature: dict[str, Any], value: Any) -> Any:
    """A value as it is stored: pictures as they are, depth float32 metres [H,W,1], numbers in the feature's shape."""
    kind, shape = feature["dtype"], tuple(feature["shape"])
    if kind == "string":
        if not isinstance(value, str):
            raise VidsslError(f"{name}: expected a string, got {type(value).__name__}")
        return value
    array = np.asarray(value)
    if is_depth(feature):
        array = to_metres(array.reshape(shape) if array.shape == shape[:2] else array)
        fits = array.shape == shape and bool(np.isfinite(array).all())
    elif kind in ("video", "image"):
        fits = array.shape == shape and array.dtype == np.uint8
    else:
        fits = array.shape == shape or (shape == (1,) and array.ndim == 0)
        whole = np.dtype(kind).kind in "iu"
        fits = fits and (array.dtype.kind in "biuf" if whole else np.can_cast(array.dtype, kind, "same_kind"))
        if fits and not _holds(np.dtype(kind), array):
            raise VidsslError(f"{name}: {kind} can't hold all of {array.tolist()}; give the feature another dtype")
    if not fits:
        wanted = {"video": "uint8", "image": "uint8"}.get(kind, kind) if not is_depth(feature) else "finite depth"
        raise VidsslError(f"{name}: expected {wanted} {list(shape)}, got {array.dtype} {list(array.shape)}")
    return array if kind in ("video", "image") else array.astype(kind).reshape(shape)


def _holds(kind: np.dtype[Any], array: np.ndarray) -> bool:
    """Whether numbers are the same in another type: integers exactly, floats to its precision and within its range."""
    with np.errstate(all="ignore"):
        stored = array.astype(kind)
    if kind.kind in "iu":
        return array.dtype.kind in "biu" and bool((stored == array).all())
    return kind.kind != "f" or bool((np.isfinite(stored) == np.isfinite(array)).all())


def png(picture: np.ndarray) -> bytes:
    """A picture uint8 [H,W,3], red first, as the bytes of a PNG."""
    import cv2

    return bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
