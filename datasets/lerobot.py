"""Reading LeRobotDataset v3.0 natively: a frame with its neighbours in time, random or in a row.

    delta_timestamps  {"action": [0, 0.1, 0.2]}  at 10 fps, the last frame but one of an episode:
    frames   . . . . x y|          action  x y y|        action_is_pad  0 0 1

T deltas of a feature, C channels, H, W pixels.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidssl.errors import VidsslError, unknown_name

from .lerobot_depth import MILLIMETRES, DepthCode
from .lerobot_format import is_depth, is_lerobot
from .lerobot_frames import OpenVideos
from .lerobot_meta import LeRobotMeta, read_meta
from .lerobot_tables import column_array, read_table

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LeRobotDataset", "is_lerobot"]

TABLES = 4  # row groups with pictures kept in memory


class LeRobotDataset:
    """A map-style data set of frames, for torch's DataLoader or by hand.

    Args:
        root: its folder.
        delta_timestamps: {feature: [seconds, ...]}, multiples of 1 / fps: the feature is then read at these times from
            the frame, held within the episode, with `FEATURE_is_pad` bool [T] telling where.
        keys: features to read; None takes all. Cameras that are not named are not decoded.
        size: (H, W) that camera pictures are scaled to; None keeps theirs. Depth is not scaled.
        tolerance: seconds a video's stamp may lie off its frame's time.

    Attributes:
        meta: see `LeRobotMeta`; `fps`, `features`, `episodes`, `tasks`, `stats` are its own.
        cameras, depths: names of the features that are RGB pictures and depth maps.

    Raises:
        VidsslError: see `lerobot_meta.read_meta`; unknown keys; deltas off the frames' grid; data files missing.
    """

    def __init__(
        self,
        root: str | Path,
        delta_timestamps: dict[str, Sequence[float]] | None = None,
        *,
        keys: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        tolerance: float = 1e-4,
    ):
        self.meta: LeRobotMeta = read_meta(root)
        self.root, self.size, self.tolerance = self.meta.root, size, tolerance
        self.fps, self.features = self.meta.fps, self.meta.features
        self.episodes, self.tasks, self.stats = self.meta.episodes, self.meta.tasks, self.meta.stats
        for key in [*(keys or ()), *(delta_timestamps or ())]:
            if key not in self.features:
                raise unknown_name("feature", key, self.features)
        self.keys = list(self.features) if keys is None else list(keys)
        if extra := sorted(set(delta_timestamps or ()) - set(self.keys)):
            raise VidsslError(f"delta_timestamps for {', '.join(extra)}, not among the keys to read; add them to keys")
        self._deltas = {key: _steps(key, deltas, self.fps) for key, deltas in (delta_timestamps or {}).items()}
        pictures = [key for key in self.keys if self.features[key]["dtype"] in ("video", "image")]
        self.cameras = [key for key in pictures if not is_depth(self.features[key])]
        self.depths = [key for key in pictures if is_depth(self.features[key])]
        self._firsts = np.array([episode.first for episode in self.episodes])
        self._columns, self._task_numbers = self._load()
        self._videos = OpenVideos()
        self._numbers: dict[tuple[int, str], np.ndarray] = {}
        self._groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def __len__(self) -> int:
        return int(self.meta.info["total_frames"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Frame `index` of all, counted from the end when negative.

        Returns:
            By feature: pictures uint8 [C,H,W], depth float32 metres [1,H,W] (0 = no return), numbers in the feature's
            shape ([1] as [] ), strings; each with a leading [T] under `delta_timestamps`. And `task`, in words.

        Raises:
            VidsslError: out of range, or a file is missing or damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.root}: frame {index} asked for; it has 0..{len(self) - 1}")
        row = index % len(self)
        episode = int(np.searchsorted(self._firsts, row, side="right")) - 1
        item: dict[str, Any] = {}
        for key in self.keys:
            steps = self._deltas.get(key)
            frame = row - self.episodes[episode].first
            if steps is None:
                item[key] = self._tensor(key, episode, np.array([frame]))[0]
                continue
            wanted = frame + steps
            held = wanted.clip(0, self.episodes[episode].length - 1)
            item[key] = self._tensor(key, episode, held)
            item[f"{key}_is_pad"] = _torch(wanted != held)
        item["task"] = self.tasks[int(self._task_numbers[row])]
        return item

    def column(self, key: str) -> np.ndarray:
        """A feature that is no picture, of all frames: [n,...] ([1] gives [n]).

        Raises:
            VidsslError: there is no such feature, or it is pictures.
        """
        if key not in self._columns:
            raise unknown_name("column", key, self._columns)
        return self._columns[key]

    def pictures(self, key: str, episode: int, frames: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Pictures of an episode, all or the frames given: uint8 [T,H,W,3], or depth float32 metres [T,H,W].

        Raises:
            VidsslError: the feature holds none, out of range, no frame is asked for, or a file is missing or damaged.
        """
        if key not in [*self.cameras, *self.depths]:
            raise unknown_name("camera", key, [*self.cameras, *self.depths])
        if not 0 <= episode < len(self.episodes):
            raise VidsslError(f"{self.root}: episode {episode} asked for; it has 0..{len(self.episodes) - 1}")
        length = self.episodes[episode].length
        wanted = np.arange(length) if frames is None else np.asarray(frames, np.int64)
        if not len(wanted):
            raise VidsslError(f"episode {episode}: no frames given; give at least one of 0..{length - 1}, or None")
        if not 0 <= wanted.min() <= wanted.max() < length:
            raise VidsslError(f"episode {episode}: frames {wanted.min()}..{wanted.max()}; it has 0..{length - 1}")
        if self.features[key]["dtype"] == "image":
            return self._stored(key, episode, wanted)
        path, begun, _ = self.episodes[episode].videos[key]
        depth = DepthCode.of(self.features[key].get("info") or {}) if key in self.depths else None
        video = self._videos.get(path, self.size, depth)
        if (episode, key) not in self._numbers:
            self._numbers[episode, key] = video.numbers(begun + np.arange(length) / self.fps, self.tolerance)
        return np.stack(video.read(self._numbers[episode, key][wanted].tolist()))

    def close(self) -> None:
        """Close the videos; they open again when needed."""
        self._videos.close()

    def _tensor(self, key: str, episode: int, frames: np.ndarray) -> Any:
        """A feature at some frames of an episode, [T,...]; strings as a list."""
        if key in self._columns:
            values = self._columns[key][self.episodes[episode].first + frames]
            return values.tolist() if values.dtype == object else _torch(values)
        pictures = _torch(self.pictures(key, episode, frames))
        return pictures.permute(0, 3, 1, 2) if key in self.cameras else pictures[:, None]

    def _load(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """All columns that are no pictures, in memory, and each frame's task."""
        names = [key for key in self.keys if self.features[key]["dtype"] not in ("video", "image")]
        paths = list(dict.fromkeys(episode.data for episode in self.episodes))
        wanted = list(dict.fromkeys([*names, "index", "task_index"]))
        parts = [read_table(path, wanted) for path in paths]
        columns: dict[str, np.ndarray] = {}
        for name in wanted:
            try:
                columns[name] = np.concatenate([column_array(part, name, self.features[name]) for part in parts])
            except (VidsslError, KeyError) as error:
                raise VidsslError(
                    f"{self.root}: {error}; is info.json another's? keys=[...] leaves a column out"
                ) from None
        if not np.array_equal(columns["index"], np.arange(len(self))):
            raise VidsslError(
                f"{self.root}: its data holds {len(columns['index'])} frames, not 0..{len(self) - 1} in order; "
                "copy or download the data set again"
            )
        tasks = columns["task_index"]
        if len(tasks) and not 0 <= tasks.min() <= tasks.max() < len(self.tasks):
            raise VidsslError(
                f"{self.root}: task {tasks.max()} in the data; tasks.parquet has 0..{len(self.tasks) - 1}"
            )
        return {name: columns[name] for name in names}, tasks

    def _stored(self, key: str, episode: int, frames: np.ndarray) -> np.ndarray:
        """Pictures that lie in the Parquet file: uint8 [T,H,W,3], or depth float32 metres [T,H,W]."""
        import cv2

        found = []
        for cell in self._cells(key, episode, frames):
            data = cell["bytes"] or (self.root / cell["path"]).read_bytes()
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
            if picture is None:
                raise VidsslError(f"{self.episodes[episode].data}: a picture of {key} in episode {episode} is damaged")
            found.append(self._depth_image(key, picture) if key in self.depths else self._colour(picture))
        return np.stack(found)

    def _colour(self, picture: np.ndarray) -> np.ndarray:
        """OpenCV's blue, green, red [H,W,3] as RGB, scaled."""
        import cv2

        picture = cv2.cvtColor(picture, {2: cv2.COLOR_GRAY2RGB}.get(picture.ndim, cv2.COLOR_BGR2RGB))
        if self.size is not None and picture.shape[:2] != self.size:
            picture = cv2.resize(picture, self.size[::-1], interpolation=cv2.INTER_AREA)
        return picture

    def _depth_image(self, key: str, picture: np.ndarray) -> np.ndarray:
        unit = (self.features[key].get("info") or {}).get("depth_unit")
        millimetres = unit == "mm" or (unit is None and np.issubdtype(picture.dtype, np.integer))
        return picture.astype(np.float32) / np.float32(MILLIMETRES if millimetres else 1)

    def _cells(self, key: str, episode: int, frames: np.ndarray) -> list[dict[str, Any]]:
        """Rows of a picture column, by row groups that stay in memory for a while."""
        from pyarrow import parquet  # type: ignore[import-untyped]

        path = self.episodes[episode].data
        first = min(other.first for other in self.episodes if other.data == path)
        file = parquet.ParquetFile(path)
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        cells = []
        for row in (self.episodes[episode].first - first + frames).tolist():
            group = int(np.searchsorted(ends, row, side="right"))
            if (path, group) not in self._groups:
                names = [name for name in self.features if self.features[name]["dtype"] == "image"]
                self._groups[path, group] = file.read_row_group(group, names)
                if len(self._groups) > TABLES:
                    self._groups.popitem(last=False)
            begun = ends[group - 1] if group else 0
            cells.append(self._groups[path, group].column(key)[int(row - begun)].as_py())
        return cells


def _steps(key: str, deltas: Sequence[float], fps: float) -> np.ndarray:
    """Deltas in frames int64 [T]; raises VidsslError for some that lie between frames."""
    steps = np.asarray(deltas, np.float64) * fps
    whole = np.rint(steps)
    if steps.ndim != 1 or not len(steps) or not np.isfinite(steps).all() or np.abs(steps - whole).max() > 1e-3:
        raise VidsslError(
            f"delta_timestamps of {key}: got {list(deltas)}; expected at least one, and multiples of 1/{fps:g} = "
            f"{1 / fps:.6g} s"
        )
    return whole.astype(np.int64)


def _torch(values: np.ndarray) -> "Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))
