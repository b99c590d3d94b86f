"""Settings of a world model, of its training and of the planner in it; nothing here imports torch.

Letters: C channels of the scene, M landmarks, n samples, H horizon, K elites.
"""

from dataclasses import dataclass, field

from vidssl.errors import VidsslError, unknown_name

SPREAD_OVER = 8192  # places among which landmarks are chosen, at least, where as many are cached
BOUNDED = {
    "moments": "`length` + 1",
    "landmarks": f"`cached` * `cached_walks` * (`refine_length` + 1), up to {SPREAD_OVER}",
}
PLANNERS = ("mppi", "cem")
COSTS = ("sum", "last")
METRICS = ("actions", "cells")


@dataclass(frozen=True)
class Weights:
    """Weights of the loss terms; 0 switches one off.

    Attributes:
        moved: of saying what moves, which is where the agent is; above 0.
        painted: of painting the frame, walls and all.
        prediction: of foretelling the places that come, in the first part of the training: the second is that alone.
    """

    moved: float = 1.0
    painted: float = 1.0
    prediction: float = 0.3

    def __post_init__(self) -> None:
        """Raises VidsslError below 0, and for a model that sees nothing move."""
        if not (self.moved > 0 and self.painted >= 0 and self.prediction >= 0):
            raise VidsslError(
                f"world model: weights moved {self.moved}, painted {self.painted}, prediction {self.prediction}; "
                "needed: the first above 0, which all else rests on, the others 0 or more"
            )


@dataclass(frozen=True)
class ModelSize:
    """Sizes of the model.

    Attributes:
        scene: C, numbers of a cell of the scene.
        hidden: of the predictor's layers.
    """

    scene: int = 32
    hidden: int = 128

    def __post_init__(self) -> None:
        """Raises VidsslError below 1."""
        if min(self.scene, self.hidden) < 1:
            raise VidsslError(f"world model: sizes scene {self.scene}, hidden {self.hidden}; needed: at least 1 each")


@dataclass(frozen=True)
class WorldModelConfig:
    """Settings of the training; the same ones give the same model on the same number of threads.

    Attributes:
        encoder: a frame encoder's name, see `vidssl.encoders.ENCODERS`.
        image_size: side of the frames it works on, pixels.
        train_encoder: whether the encoder learns too; if not it stays as it is, that of a run or random.
        steps: optimiser steps of the first part, in which encoder and model learn together.
        scenes: layouts a batch of the first part.
        per_scene: trajectories in each.
        length: steps of a trajectory.
        moments: at which a trajectory is seen.
        learning_rate: of the first part, at its peak.
        refine_steps: optimiser steps of the second part, which goes on with the model alone.
        refine_length: steps of its trajectories.
        refine_batch: scenes a batch of the second part.
        cached: scenes that are encoded once and kept for it.
        cached_walks: trajectories in each.
        landmarks: M places spread out over the cached ones, which far goals are reached by.
        seed: of everything random.
    """

    encoder: str = "control"
    image_size: int = 64
    train_encoder: bool = True
    size: ModelSize = field(default_factory=ModelSize)
    weights: Weights = field(default_factory=Weights)
    steps: int = 1000
    scenes: int = 16
    per_scene: int = 3
    length: int = 8
    moments: int = 3
    learning_rate: float = 2e-3
    refine_steps: int = 4000
    refine_length: int = 12
    refine_batch: int = 32
    cached: int = 1000
    cached_walks: int = 8
    landmarks: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises VidsslError for numbers out of range."""
        places = min(SPREAD_OVER, self.cached * self.cached_walks * (self.refine_length + 1))
        ranges = {
            "image_size": (1, None),
            "steps": (0, None),
            "scenes": (1, None),
            "per_scene": (1, None),
            "length": (1, None),
            "moments": (2, self.length + 1),
            "refine_steps": (0, None),
            "refine_length": (1, None),
            "refine_batch": (1, None),
            "cached": (1, None),
            "cached_walks": (1, None),
            "landmarks": (1, places),
            "seed": (0, None),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                to = "" if high is None else f" and at most {high} ({BOUNDED[name]})"
                raise VidsslError(f"world model: {name} is {value}; needed: at least {low}{to}")
        if not self.learning_rate > 0:
            raise VidsslError(f"world model: learning_rate is {self.learning_rate}; needed: above 0")


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        planner: "mppi" or "cem".
        horizon: steps H of a plan.
        samples: plans n tried a round.
        iterations: rounds of the first plan of an episode.
        warm_iterations: rounds of later plans, which start from the one before.
        elites: the best K of them, which the next round is drawn around.
        temperature: of MPPI, in standard deviations of the elites' costs.
        spread: standard deviation of the first round's samples; actions are in [-1,1].
        persistence: correlation of a sample's noise from step to step: what moves far without waiting for luck.
    """

    planner: str = "mppi"
    horizon: int = 20
    samples: int = 256
    iterations: int = 5
    warm_iterations: int = 2
    elites: int = 32
    temperature: float = 0.5
    spread: float = 0.7
    persistence: float = 0.6

    def __post_init__(self) -> None:
        if self.planner not in PLANNERS:
            raise unknown_name("planner", self.planner, PLANNERS)
        counts = (self.horizon, self.iterations, self.warm_iterations, self.elites)
        if min(counts) < 1 or self.elites > self.samples or self.elites < 2:
            raise VidsslError(
                f"search: horizon {self.horizon}, iterations {self.iterations} and {self.warm_iterations}, "
                f"{self.elites} elites of {self.samples} samples; needed: at least 1, and 2 to `samples` elites"
            )
        if not (self.temperature > 0 and self.spread > 0 and 0 <= self.persistence <= 1):
            raise VidsslError(
                f"search: temperature {self.temperature}, spread {self.spread}, persistence {self.persistence}; "
                "needed: the first two above 0, persistence from 0 to 1"
            )


@dataclass(frozen=True)
class PlanConfig:
    """How to plan.

    Attributes:
        search: of the actions.
        cost: "sum" of the distances to the goal over the horizon, or that of its "last" step alone.
        metric: distance of two places: in "actions", what inverse dynamics says is between them, or in "cells".
        far_goals: go by landmarks; without, every goal is taken to be near.
        longest: steps of a straight way between two landmarks.
        reach: steps within which a landmark is gone to straight.
        miss: actions left at which a straight way has arrived.
        seed: of the samples.
    """

    search: Search = field(default_factory=Search)
    cost: str = "sum"
    metric: str = "actions"
    far_goals: bool = True
    longest: int = 4
    reach: int = 8
    miss: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cost not in COSTS:
            raise unknown_name("cost", self.cost, COSTS)
        if self.metric not in METRICS:
            raise unknown_name("metric", self.metric, METRICS)
        if not (min(self.longest, self.reach) >= 1 and 0 < self.miss <= 1):
            raise VidsslError(
                f"plan: longest {self.longest}, reach {self.reach}, miss {self.miss}; "
                "needed: at least 1 step each, and a miss above 0 and at most 1"
            )
