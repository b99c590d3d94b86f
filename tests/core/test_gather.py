"""Gradients on W ranks are those of one process on the whole batch."""

import pytest
import torch
import torch.nn.functional as F
from ranks import run_on_ranks
from torch import Tensor, nn

from vidssl.core import Exclude, all_reduce_sum, gather, gather_ints, info_nce, world
from vidssl.errors import VidsslError

N, DIM = 12, 5  # clips in the global batch, feature dim


def model_and_batch() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """The same on every rank: an encoder, a learned log temperature, two views [N, 7] and the videos they are of."""
    generator = torch.Generator().manual_seed(0)
    encoder = nn.Linear(7, DIM, dtype=torch.float64)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, generator=generator)
    log_temperature = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
    one, two = torch.randn(2, N, 7, dtype=torch.float64, generator=generator)
    return encoder, log_temperature, one, two, torch.arange(N) // 2


def contrastive_gradients() -> list[Tensor]:
    """Parameter gradients after DDP's mean: two views, all ranks' keys, no negatives of the own video."""
    encoder, log_temperature, one, two, videos = model_and_batch()
    rank, size = world()
    n = N // size
    mine = slice(rank * n, rank * n + n)
    query, key = F.normalize(encoder(one[mine])), F.normalize(encoder(two[mine]))
    keys = gather(key.T.contiguous().T)  # not contiguous: torch's own all_gather has returned wrong gradients here
    own = Exclude(videos[mine], gather_ints(videos[mine]), "equal")
    positives = rank * n + torch.arange(n)
    loss = info_nce(query, keys, positives, log_temperature.exp(), exclude=[own])
    loss.backward()
    return averaged([*encoder.parameters(), log_temperature])


def variance_gradients() -> list[Tensor]:
    """A loss on statistics of the whole batch: each rank computes it whole from summed moments."""
    encoder, _, one, _, _ = model_and_batch()
    rank, size = world()
    x = encoder(one).chunk(size)[rank]
    mean = all_reduce_sum(x.sum(0)) / N
    variance = all_reduce_sum((x - mean).square().sum(0)) / N
    (variance.log().square().sum()).backward()
    return averaged(list(encoder.parameters()))


def averaged(parameters: list[nn.Parameter] | list[Tensor]) -> list[Tensor]:
    return [all_reduce_sum(p.grad) / world()[1] for p in parameters if p.grad is not None]


def unequal_rows() -> str:
    try:
        gather(torch.zeros(3 + world()[0], 2))
    except VidsslError as error:
        return str(error)
    return "no error"


def gathered_values() -> list[Tensor]:
    rank, _ = world()
    return [gather(torch.full((2, 3), float(rank))), gather_ints(torch.tensor([rank, -rank]))]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("gradients", [contrastive_gradients, variance_gradients])
def test_gradients_equal_one_process(gradients, size: int) -> None:
    alone = gradients()
    for rank in run_on_ranks(gradients, size):
        for got, expected in zip(rank, alone, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_rows_come_in_rank_order() -> None:
    for rows, ints in run_on_ranks(gathered_values, 3):
        assert rows[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
        assert ints.tolist() == [0, 0, 1, -1, 2, -2]


def test_unequal_rows_are_an_error_on_every_rank() -> None:
    for message in run_on_ranks(unequal_rows, 2):
        assert "got [3, 4] rows" in message


def test_alone_nothing_moves() -> None:
    x = torch.zeros(2, 2)
    assert world() == (0, 1)
    assert gather(x) is x
    assert all_reduce_sum(x) is x
    with pytest.raises(VidsslError, match="use gather"):
        gather_ints(x)
