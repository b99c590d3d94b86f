"""The arms of a comparison: from the random floor to the privileged ceiling, clones of equal demonstrations between.

    random          uniform random actions
    random-encoder  clone on an untrained encoder of the learned one's architecture
    pixels          the same architecture trained end to end by cloning
    learned         clone on the frozen learned encoder
    …               clones on other frozen encoders, by names of the user's
    expert          the environment's privileged expert

The clones share demonstrations, head and training; they differ in what the head sees.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from vidssl.encoders import untrained_encoder
from vidssl.encoders.context import build_context
from vidssl.errors import VidsslError, unknown_name
from vidssl.features import FeatureExtractor

from .cloning import CloningConfig, Demonstrations, clone_features, clone_pixels
from .controllers import CloneController, ExpertController, RandomController
from .rollout import MakeController

ARMS = ("random", "random-encoder", "pixels", "learned", "expert")
CLONED = ("random-encoder", "pixels", "learned")


@dataclass(frozen=True)
class Architecture:
    """What has to be equal between the learned encoder and its untrained rivals."""

    encoder: str
    size: tuple[int, int]
    context: str | None = None
    context_dim: int | None = None

    @classmethod
    def of(cls, extractor: FeatureExtractor) -> "Architecture":
        """The architecture of a run's encoder, with its context when that is what the run exports."""
        config = extractor.config
        context = config["context"] if extractor.output == "context" else None
        name, dim = (context["name"], context["dim"]) if context else (None, None)
        return cls(config["encoder"]["name"], extractor.image_size, name, dim)

    def untrained(self, seed: int, fps: float | None = None) -> FeatureExtractor:
        """An extractor with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = untrained_encoder(self.encoder, self.size)
            config: dict[str, Any] = {"encoder": {"name": self.encoder, "dim": encoder.dim}, "context": None}
            if self.context is None or self.context_dim is None:
                return FeatureExtractor(encoder, None, self.size, fps, config=config)
            context = build_context(self.context, encoder.dim, self.context_dim)
            config["context"] = {"name": self.context, "dim": self.context_dim}
            return FeatureExtractor(encoder, context, self.size, fps, "context", config)


@dataclass(frozen=True)
class Budget:
    """How long clones train.

    Attributes:
        head: optimiser steps of a head on cached features.
        pixels: optimiser steps of the pixels arm (repeatable), or
        minutes: instead, as many as fit in this time.
    """

    head: int = 1500
    pixels: int | None = 1500
    minutes: float | None = None


def check_arms(arms: tuple[str, ...]) -> None:
    """Raises VidsslError for an unknown arm, one named twice, or none."""
    for arm in arms:
        if arm not in ARMS:
            raise unknown_name("arm", arm, ARMS)
    if not arms or len(set(arms)) != len(arms):
        raise VidsslError(
            f"arms must be named once each, got {' '.join(arms) or 'none'}; choose from {', '.join(ARMS)}"
        )


def scripted_arm(name: str) -> MakeController:
    """Controllers that need no demonstrations: `random` and `expert`."""
    return RandomController if name == "random" else ExpertController


def cloned_arm(
    name: str,
    architecture: Architecture,
    frozen: FeatureExtractor | None,
    demos: Demonstrations,
    config: CloningConfig,
    budget: Budget,
) -> tuple[CloneController, dict[str, Any]]:
    """Clone one arm; returns the policy, and facts of the fit (see `cloning.Fit`).

    Args:
        name: `random-encoder`, `pixels`, or any other for a clone on a frozen encoder.
        frozen: that encoder, needed by all arms but those two.
        config: its seed also draws the random weights of the untrained encoders.
    """
    if name == "pixels":
        start = architecture.untrained(config.seed)
        controller, fit = clone_pixels(start, demos, config, steps=budget.pixels, minutes=budget.minutes)
    elif name == "random-encoder":
        controller, fit = clone_features(architecture.untrained(config.seed), demos, config, budget.head)
    elif frozen is not None:
        controller, fit = clone_features(frozen, demos, config, budget.head)
    else:
        raise VidsslError(
            f"the arm `{name}` needs a RUN: pass the --out folder of `vidssl pretrain`, or leave the arm out"
        )
    return controller, asdict(fit)
