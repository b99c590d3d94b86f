import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidssl.core.random import mix, mix_ints, sample_key, uniform
from vidssl.errors import VidsslError

PINNED_KEYS = [2558736989570252433, -3426316478316322125, 4294452862966782984]
PINNED_DRAWS = [[13357946, 2724969, 719298], [2867182, 14994446, 15361994], [7686553, 3870028, 13348259]]
PINNED_STREAM = [[6459061, 15487913, 2700331], [3053072, 12030432, 10392849], [5404795, 12888920, 13889920]]
INT64 = st.integers(-(2**63), 2**63 - 1)


def test_splitmix_reference() -> None:
    # Published first outputs of splitmix64 from seed 0 (state 0 + one step, scrambled): 0xE220A8397B1DCDAF.
    assert mix_ints(0) % 2**64 == 0xE220A8397B1DCDAF


def test_values_never_change() -> None:
    # Checkpoints resume on these: a change here changes every clip and view of every run.
    assert sample_key(0, 0, 0) == PINNED_KEYS[0]
    assert sample_key(1, 2, 3) == PINNED_KEYS[1]
    assert sample_key(-5, 10**6, 2**40) == PINNED_KEYS[2]
    keys = torch.tensor(PINNED_KEYS)
    assert (uniform(keys, 3) * 2**24).long().tolist() == PINNED_DRAWS
    assert (uniform(keys, 3, stream=7) * 2**24).long().tolist() == PINNED_STREAM


@given(INT64, INT64, INT64)
def test_scalar_equals_tensor(seed: int, epoch: int, index: int) -> None:
    assert mix(seed, epoch, torch.tensor([index])).item() == sample_key(seed, epoch, index)
    assert mix(seed, epoch, index).item() == mix_ints(seed, epoch, index)


def test_order_and_arity_matter() -> None:
    assert len({mix_ints(1, 2), mix_ints(2, 1), mix_ints(1), mix_ints(1, 2, 0), mix_ints(0, 1, 2)}) == 5


def test_uniform_is_uniform() -> None:
    keys = mix(3, 0, torch.arange(20_000))  # neighbouring indices, the worst case of use
    draws = uniform(keys, 5).double()
    assert draws.min() >= 0
    assert draws.max() < 1
    # Standard errors over 20,000 draws: mean 0.002, covariance of two columns 1/12/sqrt(20000) = 0.0006.
    assert (draws.mean(0) - 0.5).abs().max() < 0.01
    assert (torch.cov(draws.T) - torch.eye(5, dtype=torch.float64) / 12).abs().max() < 0.003
    assert torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1].abs() < 0.03
    counts = torch.histc(draws, 16, 0, 1)
    assert ((counts - 6250) ** 2 / 6250).sum() < 45  # chi-squared, 15 degrees: P(> 45) < 1e-4, and the draw is fixed


def test_rows_depend_on_their_key_alone() -> None:
    keys = mix(0, 0, torch.arange(10))
    whole = uniform(keys, 4)
    assert torch.equal(uniform(keys[3:5], 4), whole[3:5])
    assert torch.equal(uniform(keys, 2), whole[:, :2])
    assert not torch.equal(uniform(keys, 4, stream=1), whole)


def test_rejects_other_types() -> None:
    with pytest.raises(VidsslError, match="int64"):
        uniform(torch.zeros(3), 2)
    with pytest.raises(VidsslError, match=r"keys int64 \[B\]"):
        uniform(torch.zeros(3, 1, dtype=torch.int64), 2)
    with pytest.raises(VidsslError, match="int64"):
        mix(1, torch.zeros(2))
