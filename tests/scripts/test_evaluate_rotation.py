"""`vidssl evaluate-rotation`: tables and JSON of the peers and of an estimator, and answers to bad input."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import vidssl.rotation
from vidssl.errors import VidsslError
from vidssl.rotation import registration
from vidssl.rotation.so3 import random_rotations
from vidssl.scripts.evaluate_rotation import main

K = np.array([[300.0, 0, 31.5], [0, 300.0, 31.5], [0, 0, 1]])
COUNT = 12
Images = NDArray[np.float32]


def depth_views(count: int, first: float) -> Images:
    """Flat squares, of a depth that tells their number."""
    views = np.zeros((count, 64, 64), np.float32)
    views[:, 20:44, 20:44] = (first + 0.001 * np.arange(count))[:, None, None]
    return views


def rotations() -> Images:
    turns: Images = random_rotations(COUNT).numpy()
    return turns


def number(depth: Images) -> int:
    return round(1000 * (float(depth.max()) - 0.5))


def write(path: Path, **changed: NDArray[np.generic]) -> Path:
    views = depth_views(COUNT, 0.5)
    arrays: dict[str, NDArray[np.generic]] = {"hard_a": views, "hard_b": views, "hard_R": rotations(), "K": K}
    np.savez(path, **(arrays | changed))  # type: ignore[arg-type]
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.npz")


@dataclass
class Candidate:
    rotation: Images


@dataclass
class Estimate:
    rotation: Images
    candidates: list[Candidate]
    expected_error: float


class Estimator:
    """Right when combined; otherwise no rotation, with the right one among its candidates."""

    def __init__(self, truth: Images) -> None:
        self.truth = truth

    def estimate(self, a: Images, b: Images, K: NDArray[np.float64], parts: str) -> Estimate:
        right, none = self.truth[number(a)], np.eye(3, dtype=np.float32)
        chosen = right if parts == "combined" else none
        return Estimate(chosen, [Candidate(none), Candidate(right)], 2.0 if parts == "combined" else float("nan"))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Images], None]:
    """Estimator and peers that know the truth: the command is tested here, not they."""

    def use(truth: Images) -> None:
        monkeypatch.setattr(vidssl.rotation, "load_estimator", lambda run: Estimator(truth), raising=False)
        monkeypatch.setattr(registration, "PEERS", {"knows": lambda a, b, K: truth[number(a)]})
        monkeypatch.setattr(registration, "candidates", lambda a, b, K: (truth[number(a)][None], np.zeros(1)))

    return use


def test_report_of_a_run(
    pairs: Path, fakes: Callable[[Images], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = np.load(pairs)["hard_R"]
    fakes(truth)
    main([str(tmp_path / "run"), "--pairs", str(pairs), "--limit", "10"])
    found = json.loads((tmp_path / "run" / "evaluation" / "rotation.json").read_text())
    rows = found["sets"]["hard"]["rows"]
    assert list(rows) == sorted(["learned", "geometric: GICP from 81 starts", "combined", "knows"])
    assert {row["count"] for row in rows.values()} == {10}
    assert rows["combined"]["within5"] == rows["knows"]["within5"] == 1
    assert rows["combined"]["median"] < 1e-3
    assert rows["learned"]["within5"] == 0
    assert rows["learned"]["oracle"]["within5"] == 1
    assert (rows["learned"]["picked"], rows["learned"]["picked_of"]) == (0, 10)
    assert rows["combined"]["expected"] == 2
    assert "expected" not in rows["learned"]  # not calibrated, and says so
    assert not found["sets"]["hard"]["looks_transposed"]
    shown = capsys.readouterr().out
    assert "hard: 10 pairs, 1 thread(s)" in shown
    assert "combined: picks a right candidate in 1.00 of 10 pairs" in shown
    assert "combined: expects 2.00° in the mean, observed 0.00°" in shown


def test_transposed_rotations_are_noticed(
    pairs: Path, fakes: Callable[[Images], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fakes(np.load(pairs)["hard_R"].swapaxes(1, 2))
    main(["none", "--pairs", str(pairs)])
    report = json.loads(pairs.with_name("pairs.rotation.json").read_text())
    assert report["sets"]["hard"]["looks_transposed"]
    assert "warning: hard_R looks transposed" in capsys.readouterr().out


def test_unusable_pairs_are_left_out_and_named(
    tmp_path: Path, fakes: Callable[[Images], None], capsys: pytest.CaptureFixture[str]
) -> None:
    views = depth_views(COUNT, 0.5)
    views[2], views[5, 21:] = 0, 0
    pairs = write(tmp_path / "pairs.npz", hard_b=views)
    fakes(np.load(pairs)["hard_R"])
    main(["none", "--pairs", str(pairs), "--out", str(tmp_path / "x.json")])
    found = json.loads((tmp_path / "x.json").read_text())["sets"]["hard"]
    assert list(found["left_out"]) == ["2", "5"]
    assert found["rows"]["knows"]["count"] == 10
    shown = capsys.readouterr().out
    assert "left out: hard_b[2]: empty" in shown
    assert "left out: hard_b[5]: 24 surface points" in shown


def test_pairs_that_a_run_can_not_take_are_left_out_for_all(tmp_path: Path, fakes: Callable[[Images], None]) -> None:
    views = depth_views(COUNT, 0.5)
    views[4] = 0
    views[4].flat[np.random.default_rng(0).choice(64 * 64, 55, replace=False)] = 0.5  # the network's grid misses half
    pairs = write(tmp_path / "pairs.npz", hard_a=views)
    fakes(np.load(pairs)["hard_R"])
    for run, left_out in (("none", []), (str(tmp_path), ["4"])):
        main([run, "--pairs", str(pairs), "--out", str(tmp_path / "x.json")])
        found = json.loads((tmp_path / "x.json").read_text())["sets"]["hard"]
        assert list(found["left_out"]) == left_out
        assert {row["count"] for row in found["rows"].values()} == {COUNT - len(left_out)}


def test_a_run_without_peers(pairs: Path, fakes: Callable[[Images], None], tmp_path: Path) -> None:
    fakes(np.load(pairs)["hard_R"])
    main([str(tmp_path / "run"), "--pairs", str(pairs), "--limit", "4", "--no-peers"])
    found = json.loads((tmp_path / "run" / "evaluation" / "rotation.json").read_text())
    assert sorted(found["sets"]["hard"]["rows"]) == ["combined", "learned"]


def test_the_real_peers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "default_starts", lambda: np.eye(3)[None])  # one instead of 81
    still = np.broadcast_to(np.eye(3, dtype=np.float32), (COUNT, 3, 3))
    main(["none", "--pairs", str(write(tmp_path / "pairs.npz", hard_R=still)), "--limit", "1"])
    rows = json.loads((tmp_path / "pairs.rotation.json").read_text())["sets"]["hard"]["rows"]
    assert set(rows) == set(registration.PEERS)
    assert rows["GICP"]["median"] < 0.1  # a view beside itself
    assert all(row["ms"] > 0 for row in rows.values())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hard_a": 1000 * depth_views(COUNT, 0.5)}, r"hard: no usable pair; hard_a\[0\]: .*millimetres"),
        ({"K": K + np.array([[0, 0, 200], [0, 0, 0], [0, 0, 0]])}, "principal point"),
        ({"hard_R": 2 * rotations()}, "hard"),
    ],
)
def test_bad_pairs_are_refused(changed: dict[str, NDArray[np.generic]], message: str, tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match=message):
        main(["none", "--pairs", str(write(tmp_path / "pairs.npz", **changed))])


def test_bad_pairs_and_places_are_told_before_the_first_estimate(
    tmp_path: Path, fakes: Callable[[Images], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    views = depth_views(COUNT, 0.5)
    later: dict[str, NDArray[np.generic]] = {"later_a": views, "later_b": 0 * views, "later_R": rotations()}
    pairs = write(tmp_path / "pairs.npz", **later)
    fakes(rotations())
    monkeypatch.setattr("vidssl.evaluate.rotation.run", lambda *given: pytest.fail("estimates"))
    with pytest.raises(VidsslError, match=r"later: no usable pair; later_b\[0\]: empty"):
        main(["none", "--pairs", str(pairs)])
    with pytest.raises(VidsslError, match=r"cannot write .*x.json: .*pairs.npz is no folder; choose another --out"):
        main(["none", "--pairs", str(pairs), "--out", str(pairs / "new" / "x.json")])
    with pytest.raises(VidsslError, match="it is a folder; name a file"):
        main(["none", "--pairs", str(pairs), "--out", str(tmp_path)])
    with pytest.raises(VidsslError, match=r"/proc may not be written to; choose another --out"):
        main(["none", "--pairs", str(pairs), "--out", "/proc/new/x.json"])


def test_settings_that_make_no_sense_are_refused(pairs: Path) -> None:
    with pytest.raises(VidsslError, match="--limit: got 0"):
        main(["none", "--pairs", str(pairs), "--limit", "0"])
    with pytest.raises(VidsslError, match="--threads: got 0"):
        main(["none", "--pairs", str(pairs), "--threads", "0"])
    with pytest.raises(VidsslError, match="leave nothing to judge"):
        main(["none", "--pairs", str(pairs), "--no-peers"])
    with pytest.raises(VidsslError, match="no such file"):
        main(["none", "--pairs", str(pairs.with_name("none.npz"))])
