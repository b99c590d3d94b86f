"""Errors, summaries and the transposition check, by hand."""

from math import radians

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidssl.errors import VidsslError
from vidssl.evaluate.intervals import wilson
from vidssl.evaluate.rotation import (
    Answer,
    Outcome,
    looks_transposed,
    notes,
    report,
    rotation_errors,
    rotation_table,
    run,
    summarise,
)
from vidssl.rotation.so3 import exp, random_rotations

K = np.eye(3)


def about_z(*degrees: float) -> NDArray[np.float32]:
    return exp(torch.tensor([[0.0, 0.0, radians(angle)] for angle in degrees])).numpy()


def test_errors_are_angles_exact_at_both_ends() -> None:
    base = random_rotations(5, torch.Generator().manual_seed(0)).numpy()
    truth = [0.0, 0.003, 30, 179.997, 180]
    found = rotation_errors(base @ about_z(*truth), base)
    np.testing.assert_allclose(found, truth, atol=3e-5)


def test_not_a_rotation_is_refused() -> None:
    with pytest.raises(VidsslError, match="truth: not a rotation"):
        rotation_errors(np.eye(3), 2 * np.eye(3))


def test_summary_by_hand() -> None:
    found = summarise([1, 2, 3, 5, 100], [0.01, 0.02, 0.03, 0.04, 9])
    # the 90 % percentile of five lies 0.6 of the way from the fourth to the fifth
    assert found["median"] == 3
    assert found["p90"] == pytest.approx(5 + 0.6 * 95)
    assert found["mean"] == pytest.approx(22.2)
    assert found["within5"] == 0.8
    assert tuple(found["within5_interval"]) == wilson(4, 5)
    assert found["ms"] == pytest.approx(30)
    assert found["count"] == 5


@pytest.mark.parametrize("errors", [[], [1.0, np.nan]])
def test_summary_of_nothing_or_of_nan_is_refused(errors: list[float]) -> None:
    with pytest.raises(VidsslError, match="summarise"):
        summarise(errors, errors)


def views(count: int) -> NDArray[np.float32]:
    """Depth images that carry their number."""
    return np.arange(count, dtype=np.float32)[:, None, None].repeat(4, 1).repeat(4, 2)


def test_run_asks_about_every_pair_and_knows_the_best_candidate() -> None:
    truth = about_z(0, 10, 20, 30)
    asked: list[float] = []

    def estimate(a: NDArray[np.float32], b: NDArray[np.float32], K: NDArray[np.float64]) -> Answer:
        asked.append(float(a[0, 0]))
        number = int(a[0, 0])
        # right for all but the last, whose right candidate it does not choose
        choice = about_z(10.0 * number + (60 if number == 3 else 1))[0]
        return Answer(choice, np.stack((choice, about_z(10.0 * number + 2)[0])), expected_error=4.0)

    steps: list[None] = []
    outcome = run(estimate, views(4), views(4), truth, K, lambda: steps.append(None))
    assert asked == [0, 0, 1, 2, 3]  # the first is asked once more, untimed
    assert len(steps) == 4
    np.testing.assert_allclose(outcome.errors, [1, 1, 1, 60], atol=1e-4)
    np.testing.assert_allclose(outcome.transposed, [1, 21, 41, 120], atol=1e-4)
    assert outcome.best is not None
    np.testing.assert_allclose(outcome.best, [1, 1, 1, 2], atol=1e-4)
    found = report(outcome)
    assert found["within5"] == 0.75
    assert found["oracle"]["within5"] == 1
    assert (found["picked"], found["picked_of"]) == (0.75, 4)
    assert found["expected"] == 4
    assert notes({"mine": found}) == [
        "mine: picks a right candidate in 0.75 of 4 pairs that have one",
        "mine: expects 4.00° in the mean, observed 15.75°",
    ]


def test_without_candidates_there_is_no_oracle() -> None:
    outcome = run(lambda a, b, K: Answer(np.eye(3, dtype=np.float32)), views(3), views(3), about_z(1, 2, 3), K)
    assert outcome.best is None
    found = report(outcome)
    assert not {"oracle", "picked", "expected"} & set(found)
    assert notes({"mine": found}) == []


def outcome(errors: list[float], transposed: list[float]) -> Outcome:
    return Outcome(np.array(errors), np.array(transposed), np.ones(len(errors)), None, None)


def test_inverse_rotations_are_noticed() -> None:
    good, bad = [0.1] * 20, [40.0] * 20
    assert looks_transposed([outcome(bad, bad), outcome(bad, good)])
    assert not looks_transposed([outcome(bad, bad), outcome(good, bad)])
    assert not looks_transposed([outcome(good, good)])  # small angles: either way
    assert not looks_transposed([])


def test_table_has_a_row_an_estimator_and_one_for_the_oracle() -> None:
    plain = report(outcome([1.0, 7.0], [1.0, 7.0]))
    rows = {"plain": plain, "many": plain | {"oracle": plain}}
    table = rotation_table("hard", rows)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["plain", "many", "  its best candidate"]
    assert columns[1] == ["4.00°"] * 3
    assert columns[4] == ["0.50"] * 3
    assert columns[6] == ["1000.0", "1000.0", ""]
