"""What all methods share: the loss core, collectives that differentiate rightly, random numbers by key."""

from vidssl.core.gather import all_reduce_sum, gather, gather_ints, world
from vidssl.core.info_nce import Exclude, info_nce, lse
from vidssl.core.random import mix, mix_ints, sample_key, uniform

__all__ = [
    "Exclude",
    "all_reduce_sum",
    "gather",
    "gather_ints",
    "info_nce",
    "lse",
    "mix",
    "mix_ints",
    "sample_key",
    "uniform",
    "world",
]
