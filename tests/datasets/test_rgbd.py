"""RGB-D recordings: a small one made here, and real frames whose poses are checked against their depth."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from vidssl.datasets.rgbd import RGBDSequence
from vidssl.datasets.rgbd_pairs import RGBDPairs
from vidssl.errors import VidsslError

K = np.array([[20.0, 0, 11.5], [0, 20, 7.5], [0, 0, 1]])


def turn(degrees: float) -> np.ndarray:
    """A camera that has turned to its right, about y."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])


def write_frame(folder: Path, number: int, depth: np.ndarray, pose: np.ndarray | None, color: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f"frame-{number:06}"
    cv2.imwrite(f"{name}.depth.png", depth)
    if pose is not None:
        np.savetxt(f"{name}.pose.txt", pose)
    if color:
        image = np.zeros((*depth.shape[:2], 3), np.uint8)
        image[..., 2] = 200  # OpenCV writes blue, green, red
        cv2.imwrite(f"{name}.color.png", image)


def wall(degrees: float) -> np.ndarray:
    """Depth uint16 [16,24], mm, of a wall at z = 2 m in the world, from the origin, the camera turned."""
    u, v = np.meshgrid(np.arange(24), np.arange(16))
    rays = np.stack([(u - 11.5) / 20, (v - 7.5) / 20, np.ones((16, 24))], -1) @ turn(degrees)[:3, :3].T
    return np.round(2000 / rays[..., 2]).astype(np.uint16)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    for number in range(8):
        write_frame(tmp_path / "seq", number, wall(2 * number), turn(2 * number))
    np.savetxt(tmp_path / "camera-intrinsics.txt", K)
    return tmp_path


def test_frames_are_read_in_metres_with_their_colours(scene: Path) -> None:
    depth = wall(0)
    depth[0, :3] = (0, 65535, 1234)
    write_frame(scene / "seq", 0, depth, turn(0))
    sequence = RGBDSequence(scene)
    assert len(sequence) == 8
    assert [frame.name for frame in sequence.frames][:2] == ["frame-000000", "frame-000001"]
    np.testing.assert_allclose(sequence.depth(0)[0, :4], (0, 0, 1.234, 2), atol=1e-6)
    assert sequence.depth(0).dtype == np.float32
    np.testing.assert_array_equal(sequence.image(0)[3, 3], (200, 0, 0))
    assert sequence.grey(0)[3, 3] == 60  # 0.299 * 200
    np.testing.assert_array_equal(sequence.K, K)
    np.testing.assert_allclose(sequence.poses[3], turn(6), atol=1e-12)
    assert sequence.skipped == {}
    given = RGBDSequence(scene / "seq", K=2 * K + np.diag([0, 0, -1]))
    assert given.K[0, 0] == 40


def test_frames_without_a_usable_pose_are_named(scene: Path) -> None:
    folder = scene / "seq"
    write_frame(folder, 10, wall(0), None)
    write_frame(folder, 11, wall(0), np.full((4, 4), -np.inf))
    write_frame(folder, 12, wall(0), np.diag([2.0, 2, 2, 1]))
    write_frame(folder, 13, wall(0), np.eye(3))
    write_frame(folder, 14, wall(0), turn(0))
    (folder / "frame-000014.pose.txt").write_text("-1.#IND 0 0 0\n")
    write_frame(folder, 15, wall(0), turn(0))
    (folder / "frame-000015.pose.txt").write_text("")
    skipped = RGBDSequence(scene).skipped
    assert {name: reason.split(" (")[0] for name, reason in skipped.items()} == {
        "frame-000010": "no frame-000010.pose.txt",
        "frame-000011": "frame-000011.pose.txt is not finite",
        "frame-000012": "frame-000012.pose.txt is no rigid motion",
        "frame-000013": "frame-000013.pose.txt is malformed",
        "frame-000014": "frame-000014.pose.txt is malformed",
        "frame-000015": "frame-000015.pose.txt is malformed",
    }


def test_crops_and_their_intrinsics_by_hand(scene: Path) -> None:
    pairs = RGBDPairs(RGBDSequence(scene), size=4, stride=3)
    # 12 x 12 of 24 x 16 pixels from row 2, column 6; every third: rows 2, 5, 8, 11, columns 6, 9, 12, 15
    assert pairs.crops.shape == (8, 4, 4)
    np.testing.assert_array_equal(pairs.crops[3], RGBDSequence(scene).depth(3)[2:14:3, 6:18:3])
    np.testing.assert_allclose(pairs.K, [[20 / 3, 0, 5.5 / 3], [0, 20 / 3, 5.5 / 3], [0, 0, 1]])
    assert RGBDSequence(scene).image(0)[pairs.window].shape == (4, 4, 3)
    assert RGBDPairs(RGBDSequence(scene), size=5).crops.shape == (8, 5, 5)  # the largest stride: 3


def test_the_scene_turns_against_the_camera(scene: Path) -> None:
    pairs = RGBDPairs(RGBDSequence(scene), size=8)
    drawn = pairs.draw(30, (4, 8), seed=0)
    frames = pairs.choose(30, (4, 8), seed=0)
    apart = np.abs(frames[:, 0] - frames[:, 1])
    assert set(apart) == {2, 3, 4}  # frames are 2 degrees apart
    for pair, (a, b) in enumerate(frames):
        np.testing.assert_array_equal(drawn.a[pair], pairs.crops[a])
        np.testing.assert_array_equal(drawn.b[pair], pairs.crops[b])
        np.testing.assert_allclose(drawn.R[pair], turn(2 * (a - b))[:3, :3], atol=1e-6)
        assert np.median(np.abs(pairs.mismatch(a, b))) < 0.02
    np.testing.assert_array_equal(pairs.choose(10, (4, 8), seed=0, start=20), frames[20:])
    assert set(np.abs(np.diff(pairs.choose(30, (0, 180), 0, frames=1), axis=1)).ravel()) == {1}
    assert drawn.object.tolist() == [-1] * 30
    assert pairs.overlap(3, 3) == 1
    assert 0 < pairs.overlap(0, 7) < pairs.overlap(0, 2) < 1
    pairs.crops[3] = 0  # a frame without a return
    assert pairs.overlap(3, 2) == pairs.overlap(2, 3) == 0


def test_real_poses_foretell_the_depth_of_other_frames(shared_data: Path) -> None:
    folder = shared_data / "rgbd" / "seven_scenes"
    if not folder.is_dir():
        pytest.skip(f"no RGB-D frames at {folder}")
    pairs = RGBDPairs(RGBDSequence(folder))
    assert pairs.crops.shape == (50, 128, 128)
    assert pairs.crops.max() < 10
    for a, b in pairs.choose(5, (5, 15), seed=0):
        off = pairs.mismatch(a, b)
        seen = np.isfinite(off)
        metres = np.median(np.abs(off[seen])) * np.median(pairs.crops[a][pairs.crops[a] > 0])
        assert seen.mean() > 0.4
        assert metres < 0.03
    # the other way round, the same poses foretell something else
    a, b = pairs.choose(1, (5, 15), seed=0)[0]
    true = np.isfinite(pairs.mismatch(a, b)).mean(), pairs.overlap(a, b)
    pairs.sequence.poses = np.linalg.inv(pairs.sequence.poses)
    assert pairs.overlap(a, b) < 0.7 * true[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"degrees": (20, 10)}, r"0 ≤ least ≤ largest ≤ 180 degrees"),
        ({"overlap": 1.5}, "overlap 0 … 1"),
        ({"count": 0}, "count 0"),
        ({"frames": 0}, "frames 0"),
        ({"seed": -1}, "seed -1"),
        ({"degrees": (90, 180)}, r"no two frames up to 100 apart differ by 90° to 180°; the largest angle is 14.0°"),
        ({"degrees": (13, 15), "overlap": 1.0}, "none of 200 pairs of frames drawn overlaps by 1.0"),
    ],
)
def test_draws_with_mistakes(scene: Path, given: dict[str, object], message: str) -> None:
    pairs = RGBDPairs(RGBDSequence(scene), size=8)
    with pytest.raises(VidsslError, match=message):
        pairs.choose(**({"count": 1, "degrees": (0, 10), "seed": 0} | given))


def test_folders_with_mistakes(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match="no such folder"):
        RGBDSequence(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VidsslError, match=r"no \*\.depth\.png"):
        RGBDSequence(tmp_path / "empty")
    write_frame(scene / "seq2", 0, wall(0), turn(0), color=False)
    with pytest.raises(VidsslError, match="frames in seq, seq2; pass the folder of one recording"):
        RGBDSequence(scene)
    sequence = RGBDSequence(scene / "seq2")
    with pytest.raises(VidsslError, match="frame-000000: has no colour image"):
        sequence.image(0)
    with pytest.raises(VidsslError, match="don't fit in frames of 24 x 16"):
        RGBDPairs(sequence)
    with pytest.raises(VidsslError, match="don't fit"):
        RGBDPairs(sequence, size=8, stride=3)
    write_frame(scene / "seq2", 1, wall(0)[:, :-2], turn(0))
    with pytest.raises(VidsslError, match="22 x 16 pixels, the first frame has 24 x 16"):
        RGBDPairs(RGBDSequence(scene / "seq2"), size=8)
    write_frame(scene / "seq2", 0, wall(0).astype(np.uint8), turn(0))
    with pytest.raises(VidsslError, match=r"expected a uint16 image of one channel, millimetres; got uint8 \(16, 24\)"):
        RGBDSequence(scene / "seq2").depth(0)
    (scene / "seq2" / "frame-000000.depth.png").write_bytes(b"")
    with pytest.raises(VidsslError, match="can't be read as an image"):
        RGBDSequence(scene / "seq2").depth(0)
    cv2.imwrite(str(scene / "seq2" / "frame-000001.color.png"), np.zeros((4, 4), np.uint16))
    with pytest.raises(VidsslError, match=r"uint8 image of three channels, got uint16 \(4, 4\)"):
        RGBDSequence(scene / "seq2").image(1)
    (scene / "seq2" / "frame-000000.pose.txt").unlink()
    (scene / "seq2" / "frame-000001.pose.txt").unlink()
    with pytest.raises(VidsslError, match=r"none of 2 frames is usable; frame-000000: no frame-000000\.pose\.txt"):
        RGBDSequence(scene / "seq2")


def test_intrinsics_with_mistakes(scene: Path) -> None:
    with pytest.raises(VidsslError, match="K: expected intrinsics"):
        RGBDSequence(scene, K=np.eye(4))
    with pytest.raises(VidsslError, match="K: expected 3 x 3 numbers"):
        RGBDSequence(scene, K="focal")
    (scene / "camera-intrinsics.txt").write_text("fx 585")
    with pytest.raises(VidsslError, match=r"camera-intrinsics\.txt: expected 3 x 3 numbers"):
        RGBDSequence(scene)
    (scene / "camera-intrinsics.txt").unlink()
    with pytest.raises(VidsslError, match=r"no camera-intrinsics\.txt there or above, and no K given"):
        RGBDSequence(scene)
