"""What all methods share: the loss core, collectives that differentiate rightly, random numbers by key."""

from vidssl.core.centring import Centring
from vidssl.core.gather import all_reduce_sum, gather, gather_ints, world
from vidssl.core.info_nce import Exclude, info_nce, lse, nt_xent
from vidssl.core.koleo import koleo
from vidssl.core.random import mix, mix_ints, sample_key, uniform
from vidssl.core.sigreg import sigreg
from vidssl.core.sinkhorn import sinkhorn
from vidssl.core.variance import covariance_penalty, cross_correlation, variance_hinge
from vidssl.core.whitening import sub_batches, whiten

__all__ = [
    "Centring",
    "Exclude",
    "all_reduce_sum",
    "covariance_penalty",
    "cross_correlation",
    "gather",
    "gather_ints",
    "info_nce",
    "koleo",
    "lse",
    "mix",
    "mix_ints",
    "nt_xent",
    "sample_key",
    "sigreg",
    "sinkhorn",
    "sub_batches",
    "uniform",
    "variance_hinge",
    "whiten",
    "world",
]
