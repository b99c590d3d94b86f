"""Pictures of episodes: annotated side-by-side frames, film strips. H, W are image sides in pixels."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vidssl.checkpoint import replacing

BAR = 22  # height in pixels of a caption bar


def fit_height(image: np.ndarray, height: int) -> np.ndarray:
    """Scale [h,w,3] to [height, even width, 3]; enlarging keeps the pixels visible (nearest neighbour)."""
    width = max(2, round(image.shape[1] * height / image.shape[0] / 2) * 2)
    method = cv2.INTER_NEAREST if height > image.shape[0] else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=method)


def caption(image: np.ndarray, text: str, colour: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """[H,W,3] -> [H+BAR,W,3]: a dark bar with one line of text above the image."""
    bar = np.full((BAR, image.shape[1], 3), 24, np.uint8)
    scale = 0.42
    while scale > 0.25 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > image.shape[1] - 8:
        scale -= 0.02
    cv2.putText(bar, text, (4, BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return np.concatenate([bar, image])


def film_strip(images: Sequence[np.ndarray], columns: int = 6) -> np.ndarray:
    """Pictures [H,W,3] of equal size as one picture, in reading order, `columns` a row, padded with black."""
    rows = []
    for start in range(0, len(images), columns):
        row = list(images[start : start + columns])
        row += [np.zeros_like(images[0])] * (min(columns, len(images)) - len(row))
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 RGB picture [H,W,3]; the file appears whole, or not at all."""
    with replacing(path) as part:
        part.write_bytes(cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes())
