"""Rotation between two depth views by geometry alone: what people use today, and what refines a learned guess.

H, W rows and columns; n, m points; s starts. p_b = R p_a + t, camera frame, metres; clouds about their own means.

    depth a, b -> points -> thinned, normals, covariances -> from each start: align -> fit, both ways -> the best
                            (`Clouds`)                                    (`refine`)  (`misfit`)

The clouds' means are put upon each other first: where the object is can be seen, only how it is turned is asked.
Constants are for objects of about 0.1 m radius, seen at about 3 mm a pixel, and chosen for the peers' best figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidssl.errors import VidsslError
from vidssl.open3d_library import load_open3d
from vidssl.rotation.clouds import backproject, check_depth, check_intrinsics

Floats = NDArray[np.float64]
Stages = Sequence[tuple[float, int, float]]
Peer = Callable[[ArrayLike, ArrayLike, ArrayLike], NDArray[np.float32]]

SPACING = 0.004  # metres between the points of a thinned cloud
NEIGHBOURS = 15  # points from which a normal or a covariance is estimated
STAGES = ((0.02, 40, 2e-3), (0.01, 20, 1e-3))  # reach of a match in metres, most iterations, stop below this (radians)
FEATURE_SPACING = 0.005  # metres; features are stabler on a thinner cloud
STARTS = 81
OUTLIER = 0.01  # metres: a point farther from the other cloud counts as this far, one that the other view can't see


@dataclass(frozen=True)
class Clouds:
    """Two views prepared for alignment: small_gicp clouds with normals and covariances, and their search trees."""

    a: Any
    b: Any
    tree_a: Any
    tree_b: Any

    @property
    def points_a(self) -> Floats:
        """[n, 3] metres, about the mean of view a."""
        return np.asarray(self.a.points())[:, :3]

    @property
    def points_b(self) -> Floats:
        """[m, 3] metres, about the mean of view b."""
        return np.asarray(self.b.points())[:, :3]


def prepare(depth_a: ArrayLike, depth_b: ArrayLike, K: ArrayLike, spacing: float = SPACING) -> Clouds:
    """Both views as thinned clouds about their own means.

    Args:
        depth_a, depth_b: [H, W] metres, 0 = no return, nothing but the object in view.
        K: [3, 3] intrinsics, pixels.
        spacing: metres between points.

    Raises:
        VidsslError: what isn't depth, or intrinsics that can't belong to it.
    """
    return gicp_clouds(*_points(depth_a, depth_b, K), spacing)


def gicp_clouds(points_a: NDArray[np.floating], points_b: NDArray[np.floating], spacing: float = SPACING) -> Clouds:
    """Thinned clouds of points [n, 3] and [m, 3] in metres, about any origins.

    Raises:
        VidsslError: a cloud without points, at which small_gicp would crash.
    """
    import small_gicp

    if min(len(points_a), len(points_b)) == 0:
        raise VidsslError(f"clouds: got {len(points_a)} and {len(points_b)} points; there is nothing to align")
    a, b = (
        small_gicp.preprocess_points(points.astype(np.float64), spacing, NEIGHBOURS, 1)
        for points in (points_a, points_b)
    )
    return Clouds(a[0], b[0], a[1], b[1])


def refine(
    clouds: Clouds, rotation: ArrayLike, translation: ArrayLike = (0.0, 0.0, 0.0), stages: Stages = STAGES
) -> tuple[Floats, Floats]:
    """Generalised ICP from one start: the rotation [3, 3] and translation [3] that it ends in.

    Distribution-to-distribution matching (Segal, Haehnel and Thrun, RSS 2009), with a wide and then a narrow reach.
    """
    import small_gicp

    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    for reach, iterations, tolerance in stages:
        pose = small_gicp.align(
            clouds.b,
            clouds.a,
            clouds.tree_b,
            pose,
            max_correspondence_distance=reach,
            max_iterations=iterations,
            rotation_epsilon=tolerance,
            translation_epsilon=0.1 * tolerance,
        ).T_target_source
    return pose[:3, :3], pose[:3, 3]


def misfit(clouds: Clouds, rotation: ArrayLike, translation: ArrayLike) -> float:
    """How badly the aligned clouds fit, metres, 0…OUTLIER: the two-sided mean of truncated nearest distances."""
    turn, shift = np.asarray(rotation), np.asarray(translation)
    forth = _distances(clouds.tree_b, clouds.points_a @ turn.T + shift)
    back = _distances(clouds.tree_a, (clouds.points_b - shift) @ turn)
    return float((np.minimum(forth, OUTLIER).mean() + np.minimum(back, OUTLIER).mean()) / 2)


def candidates(
    depth_a: ArrayLike, depth_b: ArrayLike, K: ArrayLike, starts: ArrayLike | None = None
) -> tuple[NDArray[np.float32], Floats]:
    """GICP from each of [s, 3, 3] starts (`default_starts`): rotations [s, 3, 3] and misfits [s], best first.

    Raises:
        VidsslError: as `prepare`.
    """
    return from_starts(prepare(depth_a, depth_b, K), starts)


def from_starts(clouds: Clouds, starts: ArrayLike | None = None) -> tuple[NDArray[np.float32], Floats]:
    """`candidates` of clouds."""
    found, fits = [], []
    for start in default_starts() if starts is None else np.asarray(starts):
        rotation, translation = refine(clouds, start)
        found.append(rotation)
        fits.append(misfit(clouds, rotation, translation))
    order = np.argsort(fits, kind="stable")
    return np.array(found, dtype=np.float32)[order], np.array(fits)[order]


@lru_cache(maxsize=1)
def default_starts() -> Floats:
    """[81, 3, 3]: no rotation, and 80 spread evenly over all; read-only."""
    from vidssl.rotation.so3 import grid

    starts = np.concatenate((np.eye(3)[None], grid(STARTS - 1).double().numpy()))
    starts.setflags(write=False)
    return starts


def gicp(depth_a: ArrayLike, depth_b: ArrayLike, K: ArrayLike) -> NDArray[np.float32]:
    """The rotation [3, 3] that generalised ICP finds from no rotation (small_gicp)."""
    return refine(prepare(depth_a, depth_b, K), np.eye(3))[0].astype(np.float32)


def gicp_starts(depth_a: ArrayLike, depth_b: ArrayLike, K: ArrayLike) -> NDArray[np.float32]:
    """The rotation [3, 3] of best two-sided fit among those that GICP finds from 81 starts."""
    best: NDArray[np.float32] = candidates(depth_a, depth_b, K)[0][0]
    return best


def icp_point_to_plane(depth_a: ArrayLike, depth_b: ArrayLike, K: ArrayLike) -> NDArray[np.float32]:
    """The rotation [3, 3] that point-to-plane ICP finds from no rotation (open3d; Chen and Medioni 1992)."""
    a, b = (_open3d_cloud(points, SPACING) for points in _points(depth_a, depth_b, K))
    return _icp(a, b, np.eye(4))


def fpfh_ransac_icp(depth_a: ArrayLike, depth_b: ArrayLike, K: ArrayLike) -> NDArray[np.float32]:
    """The rotation [3, 3] that RANSAC finds from matched FPFH features, refined by point-to-plane ICP (open3d).

    Features: Rusu, Blodow and Beetz, ICRA 2009. Needs no start. Open3D draws at random, and differently in each call.
    """
    open3d = load_open3d()
    registration = open3d.pipelines.registration
    a, b = (_open3d_cloud(points, FEATURE_SPACING) for points in _points(depth_a, depth_b, K))
    search = open3d.geometry.KDTreeSearchParamHybrid(radius=5 * FEATURE_SPACING, max_nn=100)
    features = [registration.compute_fpfh_feature(cloud, search) for cloud in (a, b)]
    reach = 1.5 * FEATURE_SPACING
    pose = registration.registration_ransac_based_on_feature_matching(
        a,
        b,
        *features,
        True,
        reach,
        registration.TransformationEstimationPointToPoint(False),
        3,
        [
            registration.CorrespondenceCheckerBasedOnEdgeLength(0.9),
            registration.CorrespondenceCheckerBasedOnDistance(reach),
        ],
        registration.RANSACConvergenceCriteria(50000, 0.999),
    ).transformation
    return _icp(a, b, pose)


PEERS: dict[str, Peer] = {
    "ICP point-to-plane": icp_point_to_plane,
    "GICP": gicp,
    "FPFH + RANSAC + ICP": fpfh_ransac_icp,
    "GICP from 81 starts": gicp_starts,
}


def _icp(a: Any, b: Any, pose: Floats) -> NDArray[np.float32]:
    """Point-to-plane ICP from a start [4, 4], in the stages of `refine`."""
    registration = load_open3d().pipelines.registration
    for reach, iterations, _ in STAGES:
        pose = registration.registration_icp(
            a,
            b,
            reach,
            pose,
            registration.TransformationEstimationPointToPlane(),
            registration.ICPConvergenceCriteria(1e-6, 1e-6, iterations),
        ).transformation
    return np.asarray(pose)[:3, :3].astype(np.float32)


def _open3d_cloud(points: Floats, spacing: float) -> Any:
    """A thinned cloud with normals that face the camera."""
    open3d = load_open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points)).voxel_down_sample(spacing)
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(NEIGHBOURS))
    cloud.orient_normals_to_align_with_direction((0.0, 0.0, -1.0))
    return cloud


def _points(depth_a: ArrayLike, depth_b: ArrayLike, K: ArrayLike) -> tuple[Floats, Floats]:
    """Checked, and as points [n, 3] and [m, 3] about their means."""
    a, b = check_depth(depth_a, "depth_a"), check_depth(depth_b, "depth_b")
    if a.shape != b.shape:
        raise VidsslError(
            f"depth_a and depth_b: got {a.shape} and {b.shape} pixels; both must come from the camera of K"
        )
    matrix = check_intrinsics(K, (a.shape[0], a.shape[1]))
    return centred(backproject(a, matrix)), centred(backproject(b, matrix))


def centred(points: NDArray[np.floating]) -> Floats:
    """Points [n, 3] about their mean."""
    exact = points.astype(np.float64)
    return exact - exact.mean(axis=0)


def _distances(tree: Any, points: Floats) -> Floats:
    """From each of [n, 3] to the nearest point of a tree, metres [n]."""
    return np.sqrt(np.asarray(tree.batch_nearest_neighbor_search(points, 1)[1], dtype=np.float64).reshape(len(points)))
