"""A controller that plans in a world model's imagination towards a goal picture: `PlanController`.

    camera, goal picture --encoder--> places x, g and scene s
    g, s --landmarks--> graph of the scene, once an episode
    x --graph--> next landmark --MPPI or CEM--> action, every tick; the plan before is where the search starts

What the model foretells and the next picture refutes is remembered for the episode: the graph is built again without
the ways that lead there.

Letters: M landmarks, n samples, H horizon, C channels of the scene on n x m cells, A action size.
"""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from vidssl.checkpoint import write_tensors
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor, load_encoder

from .cloning import check_on_cpu
from .landmarks import Landmarks, blocked
from .pixels import camera_image, find_image
from .planner_config import ModelSize, PlanConfig, Search
from .planning import Cost, moved_on, search
from .spaces import Spaces
from .world_model import WorldModel

GOAL = "goal"
MOVED = 0.4  # actions: a step foretold to be shorter than this can't be refuted
SURPRISE = 0.3  # a step is refuted when less than this share of it came about
PATIENCE = 8  # ticks without coming nearer to the same target, after which the way there is refuted
NEARER = 0.2  # actions that count as nearer
BLOCKED = 5.0  # cost of an imagined place that was refuted, in actions


class PlanController:
    """Plans anew every tick. The same pictures give the same actions: samples are drawn from the config's seed.

    Args:
        extractor: the world model's encoder, with its preprocessing.
        model: the world model.
        landmarks: replayed places [M,2].
        spaces: actions of the environment; -1..1 of the model stands for their range.
        config: how to plan.

    Raises VidsslError for an extractor that is not on the CPU.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        model: WorldModel,
        landmarks: Tensor,
        spaces: Spaces,
        config: PlanConfig | None = None,
    ) -> None:
        check_on_cpu(extractor, "the planner")
        self.extractor, self.model, self.landmarks = copy.copy(extractor), model.eval(), landmarks
        self.spaces, self.config = spaces, config or PlanConfig()
        self._low, self._high = np.array(spaces.low, np.float32), np.array(spaces.high, np.float32)
        self.reset()

    def fit_to(self, env: gym.Env[Any, Any]) -> "PlanController":
        """A controller for one environment; raises VidsslError when it has other spaces or no goal picture."""
        self.spaces.check(env, "the planner")
        space = env.observation_space
        if not (isinstance(space, gym.spaces.Dict) and GOAL in space.spaces):
            raise VidsslError(
                f"the planner needs a goal picture: a uint8 Box [H,W,3] under {GOAL!r} of the observations, "
                f"got {space}; choose an environment with goals, such as --env vidssl/TwoRooms-v0"
            )
        find_image(gym.spaces.Dict({"image": space.spaces[GOAL]}))
        return PlanController(self.extractor, self.model, self.landmarks, self.spaces, self.config)

    def reset(self) -> None:
        """A new episode: forget goal, graph and plan, and begin the random numbers again."""
        self._goal_picture: np.ndarray | None = None
        self._generator = torch.Generator().manual_seed(self.config.seed)
        self._graph: Landmarks | None = None
        self._plan = torch.zeros(self.config.search.horizon, self.model.actions)
        self._warm = False
        self._refuted = self.landmarks[:0]  # places foretold in this episode that were not reached, [R,2]
        self._before: Tensor | None = None
        self._foretold: Tensor | None = None
        self._target: Tensor | None = None
        self._nearest, self._waited = torch.inf, 0

    @torch.inference_mode()
    def __call__(self, observation: Any) -> np.ndarray:
        """The action float32 [A] for an observation with `image` and `goal`, both uint8 [H,W,3]."""
        if self._goal_picture is None or not np.array_equal(self._goal_picture, observation[GOAL]):
            self._begin(observation)
        x = self.model.place(self._maps(camera_image(observation)[None]))[0]
        self._learn_from(x)
        cost = self.cost_of(x, self._next(x))
        rounds = self.config.search.warm_iterations if self._warm else self.config.search.iterations
        plan = search(cost, self._plan, self.config.search, rounds, self._generator)
        self._foretold = self.model.rollout(x[None], plan[None, :1], self._scene)[0, 0]
        self._before, self._plan, self._warm = x, moved_on(plan), True
        return self._low + (plan[0].clamp(-1, 1).numpy() + 1) / 2 * (self._high - self._low)

    def cost_of(self, x: Tensor, target: Tensor) -> Cost:
        """The cost of actions [n,H,A] from place x [2]: imagined distances to `target` [2]."""

        def cost(actions: Tensor) -> Tensor:
            change = self.model.rollout(x[None], actions, self._scene) - target
            distance = (self.model.inverse(change) if self.config.metric == "actions" else change).norm(dim=-1)
            if len(self._refuted):
                distance = distance + BLOCKED * blocked(self.model, change + target, self._refuted)
            return distance.sum(1) if self.config.cost == "sum" else distance[:, -1]

        return cost

    def _next(self, x: Tensor) -> Tensor:
        """The place to go to from x, both [2]. When it comes no nearer, a step towards it is refuted, and another
        taken: the model may foretell no step at all there, so that no surprise would ever set the robot free."""
        target = self._towards(x)
        left = self.model.inverse(target - x)
        if self._target is None or not torch.equal(target, self._target) or left.norm() < self._nearest - NEARER:
            self._target, self._nearest, self._waited = target, float(left.norm()), 0
            return target
        self._waited += 1
        if self._waited < PATIENCE or self._graph is None or left.norm() < self.config.miss:
            return target
        self._refute(x + (target - x) / left.abs().max().clamp_min(1))
        self._target = self._towards(x)
        self._nearest, self._waited = float(self.model.inverse(self._target - x).norm()), 0
        return self._target

    def _towards(self, x: Tensor) -> Tensor:
        landmark = self._graph.next(x) if self._graph is not None else None
        return self._goal if landmark is None else landmark

    def _refute(self, place: Tensor) -> None:
        self._refuted = torch.cat([self._refuted, place[None]])
        self._build_graph()

    def _learn_from(self, x: Tensor) -> None:
        """Compare the place x [2] with what was foretold for it: no progress where some was expected is remembered."""
        if self._before is None or self._foretold is None:
            return
        expected = self.model.inverse(self._foretold - self._before)
        progress = self.model.inverse(x - self._before) @ expected
        if expected.norm() > MOVED and progress < SURPRISE * expected @ expected:
            self._refute(self._foretold)

    def _begin(self, observation: Any) -> None:
        """Read scene and goal, and build the graph. Both pictures show the same scene, so its reading is their mean."""
        self._goal_picture = np.array(observation[GOAL])
        pictures = np.stack([camera_image(observation), self._goal_picture])
        maps = self._maps(pictures)
        places = self.model.place(maps)
        self._goal, self._scene = places[1], self.model.scene(maps).mean(0)
        self._refuted = places[:0]
        self._before = self._foretold = self._target = None
        self._build_graph()
        self._plan = torch.zeros(self.config.search.horizon, self.model.actions)
        self._warm = False

    def _maps(self, pictures: np.ndarray) -> Tensor:
        """The encoder's maps [N,D',h,w] of pictures uint8 [N,H,W,3]."""
        return self.extractor.maps(pictures[:, None])[:, 0]

    def _build_graph(self) -> None:
        config, self._graph = self.config, None
        if config.far_goals:
            self._graph = Landmarks(
                self.model,
                self.landmarks,
                self._scene,
                self._goal,
                config.longest,
                config.reach,
                config.miss,
                self._refuted,
            )

    def save(self, folder: str | Path) -> None:
        """Write the controller to a folder; see `controller_files`.

        Raises VidsslError for an encoder without `config`.
        """
        from .controller_files import save_extractor, write_controller

        folder = Path(folder)
        save_extractor(folder / "encoder", self.extractor)
        weights = {name: w for name, w in self.model.state_dict().items() if not name.startswith("encoder.")}
        write_tensors(folder / "world_model.safetensors", {**weights, "landmarks": self.landmarks})
        content = {"plan": asdict(self.config), "size": asdict(self.model.size), "spaces": self.spaces.as_json()}
        write_controller(folder, "planner", content)

    @classmethod
    def load(cls, folder: str | Path) -> "PlanController":
        """The controller in a folder; raises VidsslError when it is missing, damaged or of another kind."""
        from .controller_files import read_controller, read_weights

        folder = Path(folder)
        content = read_controller(folder, "planner")
        extractor = load_encoder(folder / "encoder")
        try:
            plan = dict(content["plan"])
            config = PlanConfig(**{**plan, "search": Search(**plan["search"])})
            spaces = Spaces.from_json(content["spaces"])
            model = WorldModel(extractor.encoder, len(spaces.low), extractor.image_size, ModelSize(**content["size"]))
            weights = read_weights(folder / "world_model.safetensors")
            landmarks = weights.pop("landmarks")
            encoder = {f"encoder.{name}": w for name, w in extractor.encoder.state_dict().items()}
            model.load_state_dict({**weights, **encoder})
        except (KeyError, TypeError, RuntimeError, VidsslError) as error:
            words = f"{folder} is damaged or of another version of vidssl ({error!r}); train it again"
            raise VidsslError(words) from error
        return cls(extractor, model, landmarks, spaces, config)
