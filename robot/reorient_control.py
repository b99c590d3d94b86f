"""Closed-loop reorientation: small steps along estimates of the rotation that is still to do.

    depth, goal --estimator--> candidates R_i --· wrist W--> goals G_i = R_i W   what the encoders should show at last
                                                             G: the goal kept    one of them, over many steps
    action = fraction · log(G Wᵀ) · steps a second, at most the wrist's top speed

n candidates; rotations [3,3] in the camera frame.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from vidssl.errors import VidsslError
from vidssl.rotation.so3 import check_rotation

from .reorient import RATE, TOP_SPEED, ReorientEnv
from .wrist import Floats

SAME = np.deg2rad(15.0)  # candidates closer than this are one
ELSEWHERE = Rotation.from_rotvec([np.deg2rad(60.0), 0, 0]).as_matrix()  # shows another side of the object


class CandidateLike(Protocol):
    """One of an estimate's hypotheses."""

    @property
    def rotation(self) -> NDArray[Any]: ...
    @property
    def probability(self) -> float: ...


class EstimateLike(Protocol):
    """What `vidssl.rotation`'s estimators return: hypotheses, the best first or not."""

    @property
    def candidates(self) -> Sequence[CandidateLike]: ...


Estimator = Callable[[NDArray[np.float32], NDArray[np.float32], Floats], "NDArray[Any] | EstimateLike"]


class ReorientController:
    """Turns the object step by step to the goal image's orientation, on any estimator of the rotation between images.

    Every step moves by a `fraction` of the estimate, a slerp from the present to the estimated goal orientation (Devgon
    et al., CASE 2020, take 0.2 and up to 50 steps), then looks again. The wrist's encoders (`proprio`) say how far the
    object has turned meanwhile, so estimates of different steps can be compared as orientations of the goal:

    - The goal kept is followed as long as the estimator goes on proposing it. Another one replaces it when it was at
      least `margin` times as probable, or the kept one not among the candidates, `patience` steps on end.
    - A goal reached where all candidates together have a probability below `doubt`, `patience` steps on end, was a
      wrong one: the most probable of the others seen so far is next; when there is none, the object is turned by 60°
      to be seen from elsewhere. This needs probabilities that are absolute, as calibrated estimates' are; those of an
      estimator that only compares its candidates add up to 1, and bare rotations have 1: they are never doubted.
    - Within `near` of the goal, where estimates are best, the goal kept moves only by `blend` towards the newest
      estimate: the noise of single images averages out.

    A controller as in `controllers.Controller`. An image that the estimator refuses with VidsslError is passed over
    once there is a goal to go on to; before that the error is the caller's.
    """

    def __init__(
        self,
        estimator: Estimator,
        K: Floats,
        fraction: float = 0.4,
        margin: float = 2.0,
        patience: int = 3,
        near: float = np.deg2rad(10.0),
        blend: float = 0.3,
        doubt: float = 0.5,
    ) -> None:
        """
        Args:
            estimator: `(depth_now [S,S], depth_goal [S,S], K) -> rotation [3,3]`, from now to the goal, or an estimate
                with candidates.
            K: intrinsics [3,3] of the depth camera.
            fraction: of the remaining rotation that a step does, in (0, 1].
            margin: how much more probable than the kept candidate another one must be to replace it, at least 1.
            patience: steps on end that it must be so, at least 1.
            near: rad.
            blend: in (0, 1].
            doubt: in 0 to 1.

        Raises VidsslError for values outside these.
        """
        for name, value in {"fraction": fraction, "blend": blend}.items():
            if not 0 < value <= 1:
                raise VidsslError(f"{name}: got {value!r}; above 0, at most 1")
        if not 0 <= doubt <= 1:
            raise VidsslError(f"doubt: got {doubt!r}; a probability, 0 to 1")
        if margin < 1 or patience < 1:
            raise VidsslError(f"margin and patience: got {margin!r} and {patience!r}; each at least 1")
        self._estimator, self._K = estimator, K
        self._fraction, self._margin, self._patience = fraction, margin, patience
        self._near, self._blend, self._doubt = near, blend, doubt
        self.reset()

    def reset(self) -> None:
        """A new episode: no goal is kept."""
        self._goal: Floats | None = None
        self._rival: Floats | None = None  # the goal that was better at the last step,
        self._beaten = 0  # and at how many on end
        self._doubted = 0  # steps on end
        self._others: list[tuple[float, Floats]] = []  # probability and goal of what else was proposed
        self._refuted: list[Floats] = []

    def __call__(self, observation: Any) -> NDArray[np.float32]:
        """The action float32 [3] for an observation of `vidssl/Reorient-v0`."""
        wrist = np.asarray(observation["proprio"], np.float64).reshape(3, 3)
        try:
            rotations, weights = proposals(self._estimator(observation["depth"], observation["goal"], self._K))
        except VidsslError:
            if self._goal is None:
                raise
        else:
            goals = rotations @ wrist
            fresh = [
                index
                for index, goal in enumerate(goals)
                if weights[index] >= self._doubt or not _among(goal, self._refuted)
            ]
            if fresh:
                self._judge(goals[fresh], weights[fresh], wrist)
            self._question(goals, weights, wrist)
        assert self._goal is not None
        return velocity_towards(self._goal @ wrist.T, self._fraction)

    def _judge(self, goals: Floats, weights: Floats, wrist: Floats) -> None:
        """Keep to a goal, improve it or change to another, by what is proposed [n,3,3] with weights [n]."""
        best = int(weights.argmax())
        if self._goal is None:
            self._goal = goals[best]
            return
        angles = angles_between(goals, self._goal)
        nearest = int(angles.argmin())
        supported = bool(angles[nearest] < SAME)
        challenged = angles[best] >= SAME and (not supported or weights[best] > self._margin * weights[nearest])
        if supported:
            close = angles_between(wrist[None], self._goal)[0] < self._near
            self._goal = slerp(self._goal, goals[nearest], self._blend if close else 1.0)
        if not challenged:
            self._rival, self._beaten = None, 0
            return
        again = self._rival is not None and angles_between(goals[best][None], self._rival)[0] < SAME
        self._rival, self._beaten = goals[best], self._beaten + 1 if again else 1
        if self._beaten >= self._patience:
            self._goal, self._rival, self._beaten = self._rival, None, 0

    def _question(self, goals: Floats, weights: Floats, wrist: Floats) -> None:
        """Remember what else was proposed; leave a goal that, seen from where it is reached, explains nothing."""
        assert self._goal is not None
        for goal, weight in zip(goals, weights, strict=True):  # the newest view of each counts
            self._others = [(w, other) for w, other in self._others if not _among(other, [goal])]
            if not _among(goal, [self._goal, *self._refuted]):
                self._others.append((float(weight), goal))
        reached = angles_between(wrist[None], self._goal)[0] < self._near
        self._doubted = self._doubted + 1 if reached and weights.sum() < self._doubt else 0
        if self._doubted < self._patience:
            return
        self._refuted.append(self._goal)
        left = [(weight, other) for weight, other in self._others if not _among(other, self._refuted)]
        self._others = left
        if left:
            self._goal = max(left, key=lambda entry: entry[0])[1]
        else:
            self._goal, self._refuted = ELSEWHERE @ wrist, []
        self._rival, self._beaten, self._doubted = None, 0, 0


class ReorientExpert:
    """Knows the rotation that is to do; the ceiling of every table."""

    def __init__(self, env: gymnasium.Env[Any, Any], fraction: float = 0.4) -> None:
        unwrapped = env.unwrapped
        if not isinstance(unwrapped, ReorientEnv):
            raise TypeError(f"ReorientExpert turns objects in ReorientEnv, got {type(unwrapped).__name__}")
        self._env, self._fraction = unwrapped, fraction

    def reset(self) -> None:
        """Nothing to forget."""

    def __call__(self, observation: object, info: object = None) -> NDArray[np.float32]:
        """The action float32 [3]; the observation is not looked at."""
        return velocity_towards(self._env.remaining, self._fraction)


def velocity_towards(rotation: Floats, fraction: float) -> NDArray[np.float32]:
    """The action float32 [3] that does a `fraction` of `rotation` [3,3] in one step, or as much as the wrist can."""
    rate = fraction * RATE * Rotation.from_matrix(rotation).as_rotvec() / TOP_SPEED
    return (rate / max(1.0, float(np.linalg.norm(rate)))).astype(np.float32)


def proposals(result: "NDArray[Any] | EstimateLike") -> tuple[Floats, Floats]:
    """What an estimator returned, as rotations [n,3,3] and weights [n]; a bare rotation [3,3] has weight 1.

    Raises VidsslError when it is neither an estimate with candidates nor a rotation.
    """
    candidates = getattr(result, "candidates", None)
    if candidates is None:
        rotation = check_rotation(np.asarray(result), "estimator").astype(np.float64)
        if rotation.shape != (3, 3):
            raise VidsslError(f"estimator: expected one rotation [3,3], got shape {rotation.shape}")
        return rotation[None], np.ones(1)
    if not candidates:
        raise VidsslError("estimator: an estimate without candidates; it needs at least one")
    rotations = np.stack([check_rotation(candidate.rotation, "candidate") for candidate in candidates])
    return rotations.astype(np.float64), np.array([candidate.probability for candidate in candidates], float)


def angles_between(rotations: Floats, other: Floats) -> Floats:
    """The angles [n] in rad between rotations [n,3,3] and one [3,3]."""
    return Rotation.from_matrix(rotations @ other.T).magnitude()


def _among(rotation: Floats, others: Sequence[Floats]) -> bool:
    """Whether one of the others is the same as a rotation [3,3]."""
    return len(others) > 0 and bool((angles_between(np.stack(others), rotation) < SAME).any())


def slerp(start: Floats, end: Floats, fraction: float) -> Floats:
    """The rotation [3,3] that is `fraction` of the way from `start` to `end`, along the shortest arc."""
    way = Rotation.from_matrix(end @ start.T).as_rotvec()
    return Rotation.from_rotvec(fraction * way).as_matrix() @ start
