"""Feature extractors that come from no run."""

import torch

from vidssl.encoders import build_encoder
from vidssl.features import FeatureExtractor


def random_extractor(name: str, size: tuple[int, int], seed: int = 0, device: str = "cpu") -> FeatureExtractor:
    """An untrained encoder of architecture `name`, a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_encoder(name, size)
    return FeatureExtractor(encoder, None, size, device=device)
