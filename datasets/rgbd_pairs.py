"""Training pairs from RGB-D video: two frames of a recording, and the rotation of the scene between them.

m frames, n pairs, q pairs of frames allowed, S side of a crop.

A camera that moves past a scene at rest sees the scene turn the other way: from frame a to frame b, in camera axes, by
R = R_b^T R_a, for poses x_world = R_i x_i + t_i. The pose is the only teacher, nobody labels anything.
"""

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError

from .rgbd import RGBDSequence
from .rotation_pairs import RotationPairs

Floats = NDArray[np.float32]

AGREE = 0.05  # a point seen by both frames has the same depth up to this share of it
PROBES = 16  # the overlap of two frames is counted on a grid of this many points a side
TRIES = 200  # pairs of frames drawn before giving up on enough overlap


class RGBDPairs:
    """Pairs of frames of a recording, with the rotation of the scene between them.

    >>> pairs = RGBDPairs(scene).draw(100, degrees=(5, 30), seed=0)

    Every frame is cut to the same square: S*stride pixels about the middle, every `stride`-th of them kept, so that a
    depth is one the sensor gave and not a mixture of two surfaces.

        x0 = (W - S*stride) // 2;   u = (x - x0) / stride;   f' = f / stride, cx' = (cx - x0) / stride

    Args:
        sequence: the recording.
        size: S.
        stride: the largest that fits when not given (3 for 640 x 480 and S = 128).

    Attributes:
        crops: depth float32 [m,S,S], metres, 0 = no return; 64 kB a frame at S = 128.
        K: intrinsics of the crops, float64 [3,3].
        window: slices (rows, columns) that cut an image of the recording likewise.

    Raises:
        VidsslError: frames too small, or of several sizes.
    """

    def __init__(self, sequence: RGBDSequence, size: int = 128, stride: int | None = None) -> None:
        self.sequence = sequence
        first = sequence.depth(0)
        stride = min(first.shape) // size if stride is None else stride
        if size < 1 or stride < 1 or size * stride > min(first.shape):
            raise VidsslError(
                f"crops of {size} x {size} pixels, stride {stride}, don't fit in frames of {first.shape[1]} x "
                f"{first.shape[0]}; choose a smaller size or stride"
            )
        corner = [(side - size * stride) // 2 for side in first.shape]
        self.window = (
            slice(corner[0], corner[0] + size * stride, stride),
            slice(corner[1], corner[1] + size * stride, stride),
        )
        self.K = sequence.K.copy()
        self.K[:2, 2] -= corner[::-1]
        self.K[:2] /= stride
        self.crops = np.empty((len(sequence), size, size), np.float32)
        for index in range(len(sequence)):
            depth = sequence.depth(index)
            if depth.shape != first.shape:
                raise VidsslError(
                    f"{sequence.frames[index].depth}: {depth.shape[1]} x {depth.shape[0]} pixels, the first frame has "
                    f"{first.shape[1]} x {first.shape[0]}; a recording has one camera"
                )
            self.crops[index] = depth[self.window]

    def draw(
        self,
        count: int,
        degrees: tuple[float, float],
        seed: int,
        frames: int = 100,
        overlap: float = 0.5,
        start: int = 0,
    ) -> RotationPairs:
        """Pairs `start`, …, `start + count - 1` of a seed; arguments as `choose`. Their object is unknown (-1)."""
        a, b = self.choose(count, degrees, seed, frames, overlap, start).T
        turns = np.stack([self.motion(int(i), int(j))[:3, :3] for i, j in zip(a, b, strict=True)])
        return RotationPairs(self.crops[a], self.crops[b], turns.astype(np.float32), self.K)

    def choose(
        self,
        count: int,
        degrees: tuple[float, float],
        seed: int,
        frames: int = 100,
        overlap: float = 0.5,
        start: int = 0,
    ) -> NDArray[np.int64]:
        """Which frames make the pairs.

        Args:
            count: n.
            degrees: least and largest angle between the frames, 0 to 180.
            seed: 0 or more.
            frames: the two are at most this many frames apart.
            overlap: least share of a's returns that b sees as well, 0 to 1; see `overlap`.
            start: number of the first pair.

        Returns:
            int64 [n,2], frames a and b; pair i is a function of (seed, start + i), uniform over what is allowed.

        Raises:
            VidsslError: numbers out of range, or no such pairs of frames.
        """
        if not 0 <= degrees[0] <= degrees[1] <= 180 or not 0 <= overlap <= 1:
            raise VidsslError(f"expected 0 ≤ least ≤ largest ≤ 180 degrees and overlap 0 … 1, got {degrees}, {overlap}")
        if count < 1 or frames < 1 or seed < 0 or start < 0:
            raise VidsslError(f"got count {count}, frames {frames}, seed {seed}, start {start}; at least 1, 1, 0 and 0")
        allowed, angles = self._within(frames)
        allowed = allowed[(angles >= degrees[0]) & (angles <= degrees[1])]
        if len(allowed) == 0:
            raise VidsslError(
                f"no two frames up to {frames} apart differ by {degrees[0]}° to {degrees[1]}°; the largest angle is "
                f"{angles.max(initial=0):.1f}°: choose another band, or more frames"
            )
        return np.stack([self._choose(allowed, overlap, seed, start + i) for i in range(count)])

    def motion(self, a: int, b: int) -> NDArray[np.float64]:
        """The rigid motion [4,4] that takes points in camera a's frame to camera b's."""
        turn_a, turn_b = self.sequence.poses[[a, b], :3, :3]
        motion = np.eye(4)
        motion[:3, :3] = turn_b.T @ turn_a
        motion[:3, 3] = turn_b.T @ (self.sequence.poses[a, :3, 3] - self.sequence.poses[b, :3, 3])
        return motion

    def overlap(self, a: int, b: int) -> float:
        """Share of a's returns, on a grid of 16 x 16, that lie inside b's crop at the depth b has there (within 5%).

        0 where a has none on the grid.
        """
        off = self.mismatch(a, b, PROBES)
        return float((np.abs(off) < AGREE).mean()) if len(off) else 0.0

    def mismatch(self, a: int, b: int, probes: int | None = None) -> Floats:
        """How far b's depth is from what frame a and the poses foretell.

        Args:
            a: frame to start from.
            b: frame to compare with.
            probes: a grid of this many points a side; every pixel when not given.

        Returns:
            float32, for each of a's returns on the grid: (foretold depth - b's depth) / foretold depth; infinite where
            that lies outside b's crop or b has no return.
        """
        size = self.crops.shape[1]
        steps = np.arange(size) if probes is None else np.linspace(0, size - 1, min(probes, size)).round().astype(int)
        x, y = (grid.ravel() for grid in np.meshgrid(steps, steps))
        z = self.crops[a][y, x]
        x, y, z = x[z > 0], y[z > 0], z[z > 0].astype(np.float64)
        motion = self.motion(a, b)
        rays = np.linalg.inv(self.K) @ np.stack([x, y, np.ones_like(x)])
        moved = motion[:3, :3] @ (rays * z) + motion[:3, 3:]
        foretold = np.maximum(moved[2], 1e-6)
        u, v = np.round((self.K @ moved)[:2] / foretold).clip(-1, size).astype(int)
        inside = (moved[2] > 0) & (u >= 0) & (v >= 0) & (u < size) & (v < size)
        found = np.zeros(len(z))
        found[inside] = self.crops[b][v[inside], u[inside]]
        off = np.full(len(z), np.inf)
        np.divide(foretold - found, foretold, out=off, where=found > 0)
        return off.astype(np.float32)

    def _choose(self, allowed: NDArray[np.int64], overlap: float, seed: int, number: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([seed, number])
        for _ in range(TRIES):
            pair = allowed[rng.integers(len(allowed))]
            if self.overlap(int(pair[0]), int(pair[1])) >= overlap:
                return pair
        raise VidsslError(
            f"none of {TRIES} pairs of frames drawn overlaps by {overlap}; ask for less overlap, or smaller angles"
        )

    def _within(self, frames: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ordered pairs of frames [q,2] up to `frames` apart, and the angles [q] between them in degrees."""
        m = len(self.sequence)
        gaps = np.arange(1, min(frames, m - 1) + 1)
        early = np.concatenate([np.arange(m - gap) for gap in gaps]) if len(gaps) else np.zeros(0, np.int64)
        late = early + np.repeat(gaps, m - gaps)
        turns = self.sequence.poses[:, :3, :3]
        # |R_a - R_b|^2 = 8 sin^2(angle / 2), exact for small angles, where the trace is not
        apart = np.linalg.norm(turns[early] - turns[late], axis=(1, 2))
        angles = np.degrees(2 * np.arcsin(np.clip(apart / np.sqrt(8), 0, 1)))
        pairs = np.stack([early, late], 1)
        return np.concatenate([pairs, pairs[:, ::-1]]).astype(np.int64), np.concatenate([angles, angles])
