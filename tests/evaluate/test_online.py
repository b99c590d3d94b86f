"""The probe while training: on features of any number of times."""

import math

import pytest
import torch
from torch import Tensor, nn

from vidssl.evaluate.online import OnlineProbe


class Colours(nn.Module):
    """Stands for a method: its feature is the mean colour of equal parts of the clip, [B,T',3]."""

    output, context = "encoder", None

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.weight = times, nn.Parameter(torch.ones(3))

    def encoder(self, clips: Tensor) -> Tensor:
        return clips.unflatten(1, (self.times, -1)).mean((2, 4, 5)) * self.weight


@pytest.mark.parametrize("times", [1, 2, 4])
def test_probe_of_features_with_any_number_of_times(times: int) -> None:
    """Two colours tell the classes apart, by neighbours of other sources; grey noise has a rank between 1 and 3."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 40, (12, 4, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = ["red", "blue"] * 6
    clips[::2, :, 0] += 100
    clips[1::2, :, 2] += 100
    probe = OnlineProbe(clips, labels, groups=[str(i // 2) for i in range(12)], k=3)
    method = Colours(times).train()
    numbers = probe(method)
    assert numbers["knn"] == 1.0
    assert 1 <= numbers["rankme"] <= 3
    assert method.training


def test_neighbours_of_the_own_source_never_vote() -> None:
    """Twenty clips of source A are all x, four of source B all y: who may ask other sources only is always wrong."""
    generator = torch.Generator().manual_seed(0)
    probe = OnlineProbe(torch.zeros(24, 1, 3, 4, 4, dtype=torch.uint8), ["x"] * 20 + ["y"] * 4, ["A"] * 20 + ["B"] * 4)
    assert probe._knn(torch.randn(24, 5, generator=generator)) == 0.0
    alone = OnlineProbe(torch.zeros(3, 1, 3, 4, 4, dtype=torch.uint8), ["x", "y", "x"], ["A"] * 3)
    assert math.isnan(alone._knn(torch.randn(3, 5, generator=generator)))
