"""`vidssl rotation-pairs` and the benchmark of rendering, on generated solids."""

from pathlib import Path

import numpy as np
import pytest

from vidssl.datasets.rotation_pairs import load_pairs
from vidssl.errors import VidsslError
from vidssl.scripts import bench_render, rotation_pairs

SMALL = ["default", "--count", "3", "--limit", "6", "--split", "train", "--size", "64", "--focal", "150"]


def test_four_sets_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.npz"
    assert rotation_pairs.main([*SMALL, "--out", str(out)]) == 0
    sets = load_pairs(out)
    assert list(sets) == ["clean_0_30", "hard_0_30", "hard_30_60", "hard_60_180"]
    for prefix, pairs in sets.items():
        assert pairs.a.shape == pairs.b.shape == (3, 64, 64)
        degrees = np.degrees(np.arccos(np.clip((np.trace(pairs.R, axis1=1, axis2=2) - 1) / 2, -1, 1)))
        least, largest = (float(part) for part in prefix.split("_")[1:])
        assert ((degrees >= least - 0.1) & (degrees <= largest + 0.1)).all()
        np.testing.assert_array_equal(pairs.K, [[150, 0, 31.5], [0, 150, 31.5], [0, 0, 1]])
        alone = (pairs.a[..., 1:-1] == 0) & (pairs.a[..., :-2] > 0) & (pairs.a[..., 2:] > 0)  # lost between two returns
        lost = alone.sum() / (alone.sum() + (pairs.a > 0).sum())
        assert 0.08 < lost < 0.2 if prefix.startswith("hard") else lost < 0.01  # of 15%, some beside each other
    said = capsys.readouterr().out
    assert "hard_60_180  3 pairs of" in said
    assert "train split" in said
    again = tmp_path / "again.npz"
    rotation_pairs.main([*SMALL, "--out", str(again)])
    assert again.read_bytes() == out.read_bytes()


def test_meshes_left_out_or_open_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.obj").write_text("v 0 0 0\n")
    corners = "".join(f"v {x} {y} {z}\n" for x in (0, 1) for y in (0, 2) for z in (0, 3))
    faces = ["1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4"]
    (tmp_path / "box.obj").write_text(corners + "".join(f"f {face}\n" for face in faces))
    (tmp_path / "open.obj").write_text(corners + "".join(f"f {face}\n" for face in faces[1:]))
    out = str(tmp_path / "pairs.npz")
    splits = []
    for split in ("train", "test"):
        try:
            rotation_pairs.main([str(tmp_path), "--out", out, "--count", "1", "--split", split])
            splits.append(split)
        except VidsslError as error:
            assert "split" in str(error)  # noqa: PT017  the two may be in one split: the other has none
    assert splits
    said = capsys.readouterr()
    assert "left out: bad.obj: " in said.err
    assert "taken all the same: 1 of 2 meshes (open.obj): not watertight" in said.err
    assert "of 2 objects" in said.out


def test_a_wrong_name_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match=r"a file ending in \.npz"):
        rotation_pairs.main(["default", "--out", str(tmp_path / "pairs")])


def test_the_benchmark_says_its_rates(capsys: pytest.CaptureFixture[str]) -> None:
    bench_render.main(["--limit", "2", "--size", "32", "--views", "4", "--rounds", "1"])
    said = capsys.readouterr().out
    for what in ("depth views/s", "normals and RGB", "clean pairs", "hard pairs", "search trees kept"):
        assert what in said
