"""RGB-D video with camera poses, in the layout of 7-Scenes (Shotton et al., CVPR 2013).

m frames, H x W pixels.

    scene/camera-intrinsics.txt      K, 3 x 3            (or beside the frames; or given as `K`)
    scene/seq/frame-000150.color.png RGB                 (.jpg as well; may be missing)
              frame-000150.depth.png uint16, millimetres, 0 and 65535 = no return
              frame-000150.pose.txt  4 x 4, camera to world, metres
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidssl.errors import VidsslError

from .files import natural_key
from .pinhole import check_camera, rotation_mask

Floats = NDArray[np.float32]

INTRINSICS = "camera-intrinsics.txt"
LOST = 65535  # what the Kinect's driver writes where it has no depth


@dataclass(frozen=True)
class RGBDFrame:
    """One frame: its name, and where its parts lie."""

    name: str
    depth: Path
    color: Path | None


class RGBDSequence:
    """The frames of one recording.

    >>> scene = RGBDSequence("chess/seq-01", K=[[585, 0, 320], [0, 585, 240], [0, 0, 1]])
    >>> scene.depth(0), scene.image(0), scene.poses[0]

    Args:
        folder: with the frames in it, or in its only subfolder that has any.
        K: intrinsics [3,3] of the depth camera, when there is no `camera-intrinsics.txt` beside the frames or above.

    Attributes:
        frames: those with a depth image and a usable pose, in natural order of their names.
        poses: camera to world, float64 [m,4,4], metres.
        K: intrinsics, float64 [3,3].
        skipped: name -> why a frame was left out (no pose, or one that was lost in tracking).

    Raises:
        VidsslError: no such folder, no usable frames, frames in several subfolders, or intrinsics that are missing or
            malformed.
    """

    def __init__(self, folder: str | Path, K: ArrayLike | None = None) -> None:
        place = _find(Path(folder))
        self.K = _intrinsics(place, K)
        self.skipped: dict[str, str] = {}
        self.frames: list[RGBDFrame] = []
        poses = []
        for depth in sorted(place.glob("*.depth.png"), key=lambda path: natural_key(path.name)):
            name = depth.name.removesuffix(".depth.png")
            pose = _read_pose(place / f"{name}.pose.txt")
            if isinstance(pose, str):
                self.skipped[name] = pose
                continue
            colors = [path for end in ("png", "jpg") if (path := place / f"{name}.color.{end}").is_file()]
            self.frames.append(RGBDFrame(name, depth, colors[0] if colors else None))
            poses.append(pose)
        if not self.frames:
            first = next(iter(self.skipped.items()))
            raise VidsslError(f"{place}: none of {len(self.skipped)} frames is usable; {first[0]}: {first[1]}")
        self.poses = np.stack(poses)

    def __len__(self) -> int:
        return len(self.frames)

    def depth(self, index: int) -> Floats:
        """Depth of a frame: float32 [H,W], metres along the camera's axis, 0 = no return.

        Raises:
            VidsslError: the image can't be read, or is not uint16 of one channel.
        """
        path = self.frames[index].depth
        image = _read_image(path)
        if image.dtype != np.uint16 or image.ndim != 2:
            raise VidsslError(f"{path}: expected a uint16 image of one channel, millimetres; got {_said(image)}")
        return np.where(image == LOST, 0, image).astype(np.float32) / np.float32(1000)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Colour of a frame: RGB uint8 [H,W,3]. In 7-Scenes it is another camera, not registered with the depth.

        Raises:
            VidsslError: the frame has no image, or one that can't be read or is not uint8 of three channels.
        """
        frame = self.frames[index]
        if frame.color is None:
            raise VidsslError(f"{frame.name}: has no colour image; expected {frame.name}.color.png or .color.jpg")
        image = _read_image(frame.color)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise VidsslError(f"{frame.color}: expected a uint8 image of three channels, got {_said(image)}")
        return np.ascontiguousarray(image[..., ::-1])

    def grey(self, index: int) -> NDArray[np.uint8]:
        """Luma (ITU-R BT.601) of a frame's image: uint8 [H,W]. Raises as `image`."""
        import cv2

        return np.asarray(cv2.cvtColor(self.image(index), cv2.COLOR_RGB2GRAY), np.uint8)


def _find(folder: Path) -> Path:
    """The folder that holds the frames."""
    if not folder.is_dir():
        raise VidsslError(f"{folder}: no such folder; pass one with frame-XXXXXX.depth.png and .pose.txt in it")
    if any(folder.glob("*.depth.png")):
        return folder
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("*.depth.png")))
    if len(inside) != 1:
        held = f"frames in {', '.join(path.name for path in inside)}" if inside else "no *.depth.png"
        raise VidsslError(f"{folder}: {held}; pass the folder of one recording")
    return inside[0]


def _intrinsics(folder: Path, given: ArrayLike | None) -> NDArray[np.float64]:
    places = [folder / INTRINSICS, folder.parent / INTRINSICS]
    found = [path for path in places if path.is_file()]
    if given is None and not found:
        raise VidsslError(f"{folder}: no {INTRINSICS} there or above, and no K given; pass K [3,3] of the depth camera")
    try:
        K = _matrix(found[0], 3) if given is None else np.asarray(given, np.float64)
    except (ValueError, TypeError) as error:
        raise VidsslError(f"{found[0] if given is None else 'K'}: expected 3 x 3 numbers ({error})") from error
    check_camera(K)
    return K


def _read_pose(path: Path) -> NDArray[np.float64] | str:
    """Camera to world, float64 [4,4], its rotation made exact; or why there is none."""
    if not path.is_file():
        return f"no {path.name}"
    try:
        pose = _matrix(path, 4)
    except ValueError as error:
        return f"{path.name} is malformed ({error})"
    if not np.isfinite(pose).all():
        return f"{path.name} is not finite (tracking lost)"
    if not rotation_mask(pose[None, :3, :3], 0.01)[0] or (np.abs(pose[3] - (0, 0, 0, 1)) > 1e-6).any():
        return f"{path.name} is no rigid motion"
    left, _, right = np.linalg.svd(pose[:3, :3])
    pose[:3, :3] = left @ right
    return pose


def _matrix(path: Path, side: int) -> NDArray[np.float64]:
    """The [side,side] numbers of a text file; ValueError when it holds something else."""
    return np.array(path.read_text().split(), np.float64).reshape(side, side)


def _read_image(path: Path) -> NDArray[np.generic]:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if image is None:
        raise VidsslError(f"{path}: can't be read as an image; remove the frame, or fetch it again")
    return np.asarray(image)


def _said(image: NDArray[np.generic]) -> str:
    return f"{image.dtype} {image.shape}"
