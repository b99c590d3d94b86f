"""The choice among alignments: chances that add up, and a fit that knows how often it is right."""

from functools import partial

import pytest
import torch

from vidssl.rotation.choice import KNOTS, Choice, Judged, _fitted, _sure, best_of, fit_choice, together
from vidssl.rotation.so3 import exp

PAIRS, K, F = 240, 4, 3


def about_x(*degrees: float) -> torch.Tensor:
    return exp(torch.tensor([[d, 0.0, 0.0] for d in degrees]) * torch.pi / 180)


def test_chances_add_up_to_one_with_none() -> None:
    torch.manual_seed(0)
    choice = Choice(F)
    logs = choice(torch.randn(5, K, F))
    assert logs.shape == (5, K + 1)
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(5))
    # the same numbers: the same chance; none is worth exp(0 - logit) of one
    alike = choice(torch.zeros(K, F)).exp().detach()
    assert float(alike[:K].std()) < 1e-6
    with torch.no_grad():
        choice.none.fill_(50.0)
    assert float(choice(torch.zeros(K, F)).exp().detach()[K]) == pytest.approx(1.0)


def test_numbers_are_standardised() -> None:
    torch.manual_seed(0)
    choice, shifted = Choice(F), Choice(F)
    shifted.load_state_dict(choice.state_dict())
    shifted.mean.fill_(100.0)
    shifted.deviation.fill_(10.0)
    numbers = torch.randn(K, F)
    torch.testing.assert_close(shifted(numbers * 10 + 100), choice(numbers), atol=1e-4, rtol=0)


def test_expected_error_between_knots() -> None:
    choice = Choice(F)
    assert float(choice.expected_error(torch.tensor(0.3), torch.tensor(10.0))) == 90  # not fitted: as good as a guess
    choice.expected.copy_(torch.linspace(60, 0, KNOTS) * torch.tensor([[1.0], [2.0], [3.0]]))
    given = choice.expected_error(torch.tensor([0.0, 0.5, 0.52, 1.0, 1.2]), torch.full((5,), 12.0))
    assert given.tolist() == pytest.approx([60, 30, 28.8, 0, 0], abs=1e-4)
    by_angle = choice.expected_error(torch.full((5,), 0.5), torch.tensor([0.0, 29.9, 30.0, 60.0, 180.0]))
    assert by_angle.tolist() == pytest.approx([30, 30, 60, 90, 90], abs=1e-4)


def test_the_best_of_each_pair() -> None:
    chances = torch.tensor([[0.3, 0.2, 0.1, 0.3], [0.1, 0.1, 0.1, 0.6]])
    place, chance, angle = best_of(chances, about_x(0, 4, 8, 90).expand(2, 4, 3, 3))
    assert place.tolist() == [0, 3]  # 0 and 4 degrees speak for one another; joint and own chance decide together
    assert chance.tolist() == pytest.approx([0.5, 0.6])
    assert angle.tolist() == pytest.approx([0, 90], abs=1e-3)


def test_neighbours_speak_together() -> None:
    joint = together(torch.tensor([0.3, 0.2, 0.1, 0.3]), about_x(0, 4, 8, 90))
    assert joint.tolist() == pytest.approx([0.5, 0.6, 0.3, 0.3])  # 0-4 and 4-8 are within 5 degrees, 0-8 aren't
    assert float(together(torch.tensor([0.9, 0.9]), about_x(0, 1)).max()) == 1


@pytest.fixture(scope="module")
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers and errors: the first number tells the right one of four, mostly; in a fifth of the pairs none is."""
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(K, (PAIRS,), generator=generator)
    right = torch.nn.functional.one_hot(place, K) * (torch.rand(PAIRS, 1, generator=generator) < 0.8)
    numbers = torch.randn(PAIRS, K, F, generator=generator)
    numbers[..., 0] = 40 + 5 * (2.5 * right + 0.7 * numbers[..., 0])
    noise = torch.rand(PAIRS, K, generator=generator)
    return numbers, torch.where(right > 0, 3 * noise, 20 + 100 * noise)


@pytest.fixture(scope="module")
def fitted(pairs: tuple[torch.Tensor, torch.Tensor]) -> tuple[Choice, Judged]:
    with pytest.MonkeyPatch.context() as patch:  # separable as these are, a third of the steps is enough
        patch.setattr("vidssl.rotation.choice._fitted", partial(_fitted, steps=200))
        objects = torch.arange(PAIRS) // 4
        return fit_choice(pairs[0], about_x(0, 40, 80, 120).expand(PAIRS, K, 3, 3), pairs[1], objects)


def test_the_fit_picks_right(fitted: tuple[Choice, Judged], pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    choice, judged = fitted
    with torch.no_grad():
        best = choice(pairs[0])[:, :-1].argmax(dim=1, keepdim=True)
    right = pairs[1].gather(1, best)[:, 0] < 5
    present = (pairs[1] < 5).any(1)
    assert float(right[present].float().mean()) > 0.9
    assert judged.error.shape == (PAIRS,)
    assert float((judged.error[present] < 5).float().mean()) > 0.9


def test_chances_are_honest(fitted: tuple[Choice, Judged], pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    """On pairs left out: the mean chance is the share that is right. And where none is right, none is likelier."""
    choice, judged = fitted
    assert float(judged.chance.mean()) == pytest.approx(float((judged.error < 5).float().mean()), abs=0.06)
    none = choice(pairs[0]).exp().detach()[:, -1]
    present = (pairs[1] < 5).any(1)
    assert float(none[~present].mean()) > 0.5
    assert float(none[present].mean()) < 0.15


def test_the_surer_the_smaller_the_expected_error(fitted: tuple[Choice, Judged]) -> None:
    tables = fitted[0].expected
    assert tables.shape == (3, KNOTS)
    assert (tables.diff() <= 0).all()
    assert (tables[:, -1] < 5).all()
    assert (tables[:, 0] > 20).all()


def test_each_range_of_angles_has_a_table_of_its_own() -> None:
    """Small turns are off by 1 or 2 degrees, large ones by 1 or 100, right as often."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.zeros(PAIRS, 1, F)
    large = torch.arange(PAIRS) % 2 == 1
    rotations = torch.where(large[:, None, None, None], about_x(150), about_x(10)).reshape(PAIRS, 1, 3, 3)
    wrong = torch.rand(PAIRS, 1, generator=generator) < 0.5
    errors = torch.where(wrong, torch.where(large[:, None], 100.0, 2.0), 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vidssl.rotation.choice._fitted", partial(_fitted, steps=5))
        choice, judged = fit_choice(numbers, rotations, errors, torch.arange(PAIRS))
        half, nobody = torch.arange(PAIRS) < PAIRS // 2, torch.zeros(PAIRS, dtype=torch.bool)
        asked, _ = fit_choice(numbers, rotations, errors, torch.arange(PAIRS), asked=half)
        anyway, _ = fit_choice(numbers, rotations, errors, torch.arange(PAIRS), asked=nobody)
    assert judged.angle.tolist() == pytest.approx((10 + 140 * large).tolist(), abs=1e-2)
    small, middle, far = choice.expected[:, -1].tolist()
    assert 1 <= small <= 2
    assert far > 10 * small
    assert small < middle  # nothing turned by 30 to 60 degrees: that table is of all
    assert float(asked.expected[2, -1]) != far
    torch.testing.assert_close(anyway.expected, choice.expected)


def test_sure_is_the_chance_from_which_on_nearly_all_are_right() -> None:
    """Of 1000 estimates the 500 surest are right but two, the others wrong: 498 of 508 are 98.03%, of 509 97.8%."""
    chance = torch.linspace(1, 0, 1000)
    error = torch.full((1000,), 60.0)
    error[:500] = 1.0
    error[[200, 400]] = 30.0
    assert float(_sure(chance, error)) == float(chance[507])
    assert float(_sure(chance, torch.full((1000,), 60.0))) > 1  # never


def test_a_fit_is_repeatable_and_leaves_the_generator_alone(pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = _fitted(*pairs, seed=0, steps=20)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    second = _fitted(*pairs, seed=0, steps=20)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
