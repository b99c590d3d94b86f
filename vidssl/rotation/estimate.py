r"""The rotation between two depth views of an object that nobody has seen before.

    depth a, b -> signals -> 24 proposals -> generalised ICP from the best 4 and from no rotation -> sure? done
                                 |
                                 '-> energy: keep 8, mend -> keep 2, mend -> generalised ICP from each
                                                                                       |
      rotation, probability, expected error, candidates <- choice among them by energy, fit and free space

k alignments. Inside, lengths are in radii of the object and clouds lie about the believed middles of the object.
"""

from dataclasses import dataclass
from functools import cached_property
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vidssl.checkpoint import read_config, read_model
from vidssl.errors import VidsslError, unknown_name
from vidssl.rotation.choice import Choice, best_of, together
from vidssl.rotation.clouds import FEWEST_POINTS, backproject, check_depth, check_intrinsics
from vidssl.rotation.crops import Crops, crop
from vidssl.rotation.energy import (
    METRES,
    NARROW,
    AlignmentNet,
    Alignments,
    Clouds,
    EnergyConfig,
    Judgement,
    Registrable,
    corrected,
    draw_points,
    joined,
    registered,
    registrable,
)
from vidssl.rotation.evidence import COUNT, View, evidence, make_view
from vidssl.rotation.network import NetworkConfig, SphereNet
from vidssl.rotation.posterior import modes, products, score
from vidssl.rotation.registration import STAGES, Stages
from vidssl.rotation.so3 import geodesic
from vidssl.rotation.training import proposed

PARTS = ("combined", "learned", "geometric")
PROPOSALS, QUICK, KEPT, MENDED = 24, 4, 8, 2
NUMBERS = 6 + 2 * COUNT  # about each alignment, for the choice
MISFIT = 5e-4  # metres: without a model, a rotation that fits so much worse has 1/e of the probability
LEAST, MOST = 0.3, 30.0  # a given radius over the seen one: a long rod seen from its end looks ten times as small
DISTINCT = 10.0  # degrees: candidates closer than that are one
RIVAL = 0.25  # probability over that of the best: two such candidates are both to be taken seriously


@dataclass(frozen=True)
class Candidate:
    """One possible rotation."""

    rotation: NDArray[np.float32]
    """[3,3], p_b = R p_a about the object's middle, camera axes"""
    energy: float
    """lower = better: minus the logarithm of the probability"""
    probability: float
    """to be within 5° of the truth"""


@dataclass(frozen=True)
class Estimate:
    """What is believed about the rotation between two views."""

    rotation: NDArray[np.float32]
    """[3,3], of the best candidate"""
    energy: float
    """of the best candidate"""
    candidates: list[Candidate]
    """distinct ones, best first"""
    expected_error: float
    """degrees; NaN where nothing was calibrated: without `choice`, and of "learned" and "geometric" alone"""
    symmetric: bool
    """whether another candidate is nearly as likely, as with a symmetric object"""


class RotationEstimator:
    """Trained networks, ready to use; see `load_estimator`."""

    def __init__(
        self, encoder: SphereNet, energy: AlignmentNet, choice: Choice | None = None, quick: Choice | None = None
    ) -> None:
        self.encoder = encoder.eval().to(memory_format=torch.channels_last)
        self.energy = energy.eval().to(memory_format=torch.channels_last)
        self.choice, self.quick = choice, quick

    def estimate(
        self, depth_a: ArrayLike, depth_b: ArrayLike, K: ArrayLike, radius: float | None = None, parts: str = "combined"
    ) -> Estimate:
        """The rotation from view a to view b.

        Args:
            depth_a, depth_b: [H,W] metres, 0 = no return, nothing but the object in view; one camera.
            K: [3,3] intrinsics, pixels.
            radius: of the object, metres: from the middle of its bounding box to its farthest point; taken from what is
                seen when not given.
            parts: "combined", "learned" (without registration), or "geometric" (without networks, `estimate_rotation`).

        Raises:
            VidsslError: what isn't depth, intrinsics that don't belong to it, a radius that is not positive.
        """
        if parts not in PARTS:
            raise unknown_name("parts", parts, PARTS)
        if parts == "geometric":
            return estimate_rotation(depth_a, depth_b, K, radius=radius)
        with torch.inference_mode():
            scene = self.look(Pair.of(depth_a, depth_b, K, radius))
            if parts == "learned":
                tried, said = self._mended(scene)
                return _estimate(tried.rotation, (-said.energy).softmax(dim=0))
            if self.quick is not None:
                found = _chosen(self.quick, *self.quick_alignments(scene))
                if found.candidates[0].probability >= self.quick.sure:
                    return found
            return _chosen(self.choice, *self.alignments(scene))

    def look(self, pair: "Pair") -> "Scene":
        """What the networks make of both views."""
        crops = pair.crops()
        signals, middle = self.encoder(crops)
        a, b = (_see(crops[i : i + 1], middle[i], depth, pair.K) for i, depth in enumerate((pair.a, pair.b)))
        product = products(signals[:1], signals[1:])
        degree, scale = self.encoder.config.degree, self.encoder.scale.exp()
        rotations, scores = modes(product, degree, PROPOSALS)
        unturned = torch.eye(3)[None, None]
        none = proposed(unturned, torch.zeros(1, 1, 3), (score(product, unturned, degree) - scores[:, :1]) * scale)
        return Scene(a, b, pair.radius, proposed(rotations, torch.zeros(1, PROPOSALS, 3), scores * scale), none)

    def alignments(self, scene: "Scene") -> tuple[Alignments, Tensor]:
        """The final alignments of a pair, and the numbers [k,NUMBERS] by which one is chosen: MENDED mended ones, the
        same registered, and those of `quick_alignments`."""
        tried, _ = self._mended(scene)
        return self._judged(scene, joined(tried, scene.registered(tried), scene.first), MENDED)

    def quick_alignments(self, scene: "Scene") -> tuple[Alignments, Tensor]:
        """The same from the best QUICK proposals and from no rotation, registered: enough when views overlap well."""
        return self._judged(scene, scene.first, 0)

    def calibration(self) -> dict[str, Tensor]:
        """The tensors of the choices, under the names by which a run folder keeps them; none before calibration."""
        choices = {"choice": self.choice, "quick": self.quick}
        return {
            f"{name}.{key}": tensor
            for name, choice in choices.items()
            if choice is not None
            for key, tensor in choice.state_dict().items()
        }

    def _judged(self, scene: "Scene", tried: Alignments, mended: int) -> tuple[Alignments, Tensor]:
        """Alignments, the first of them mended once more, with the numbers of the choice about them."""
        said = self.energy(scene.a.clouds, scene.b.clouds, tried)
        places = tried.translation * scene.radius + scene.b.middle - tried.rotation @ scene.a.middle
        seen = evidence(scene.a.view, scene.b.view, tried.rotation, places, scene.radius)
        is_mended = (torch.arange(len(tried.pair)) < mended).float()
        turned = said.turn.norm(dim=1)
        own = (said.energy, said.energy - said.energy.min(), said.log_error, turned, tried.score, is_mended)
        better = corrected(tried, said)
        rotation = torch.where(is_mended[:, None, None] > 0, better.rotation, tried.rotation)
        return tried._replace(rotation=rotation), torch.cat((torch.stack(own, dim=1), seen), dim=1)

    def _mended(self, scene: "Scene") -> tuple[Alignments, Judgement]:
        """The proposals that are left, mended twice, MENDED of them, and what the energy said of them before."""
        tried = scene.proposals
        for left in (KEPT, MENDED):
            said = self.energy(scene.a.clouds, scene.b.clouds, tried)
            best = said.energy.argsort()[:left]
            said = Judgement(*(part[best] for part in said))
            tried = corrected(Alignments(*(part[best] for part in tried)), said)
        return tried, said


@dataclass(frozen=True)
class Pair:
    """Two depth views, checked."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    K: Tensor
    radius: float

    @classmethod
    def of(cls, depth_a: ArrayLike, depth_b: ArrayLike, K: ArrayLike, radius: float | None = None) -> "Pair":
        a, b = check_depth(depth_a, "depth_a"), check_depth(depth_b, "depth_b")
        if a.shape != b.shape:
            raise VidsslError(f"depth_a and depth_b: got {a.shape} and {b.shape} pixels; both must be of one camera")
        matrix = torch.from_numpy(check_intrinsics(K, (a.shape[0], a.shape[1]))).float()
        seen = max(_extent(a, matrix), _extent(b, matrix))
        if radius is None:
            radius = seen
        radius = _number(radius)
        if not 0 < radius < np.inf:
            raise VidsslError(f"radius: got {radius}; the object's radius in metres, above 0")
        if not LEAST * seen < radius < MOST * seen:
            raise VidsslError(f"radius: got {radius:g} m, but what is seen has about {seen:.3g} m; give it in metres")
        return cls(a, b, matrix, radius)

    def crops(self) -> Crops:
        """Both views as the networks take them; a VidsslError where too little is left in them."""
        crops = crop(torch.from_numpy(np.stack((self.a, self.b))), self.K, self.radius)
        if (fewest := int(crops.mask.sum((1, 2, 3)).min())) < FEWEST_POINTS:
            raise VidsslError(
                f"only {fewest} points of a view lie within about 1.3 radii ({1.3 * self.radius:.3g} m) of the middle "
                f"of what is seen, and on the network's grid; {FEWEST_POINTS} at the least are needed: is the object "
                "cut out, are returns dense, and the radius right if one was given?"
            )
        return crops


def _number(radius: Any) -> float:
    try:
        return float(radius)
    except (TypeError, ValueError) as error:
        raise VidsslError(f"radius: got {radius!r}; the object's radius in metres, one number") from error


@dataclass(frozen=True)
class _Seen:
    clouds: Clouds
    middle: Tensor
    """[3] metres, camera frame: where the object's middle is believed to be"""
    view: View


class Scene:
    """Both views of a pair, and the proposals for it."""

    def __init__(self, a: _Seen, b: _Seen, radius: float, proposals: Alignments, unturned: Alignments) -> None:
        self.a, self.b, self.radius, self.proposals = a, b, radius, proposals
        self._unturned = unturned

    @cached_property
    def first(self) -> Alignments:
        """What registration makes of the best proposals and, as small turns are common, of no rotation."""
        best = Alignments(*(part[:QUICK] for part in self.proposals))
        return joined(self.registered(best), self.registered(self._unturned, STAGES))

    @cached_property
    def _registrable(self) -> list[Registrable | None]:
        return registrable(self.a.clouds, self.b.clouds)

    def registered(self, tried: Alignments, stages: Stages = NARROW) -> Alignments:
        """Where generalised ICP ends from each alignment."""
        return registered(self._registrable, tried, stages)


def _see(crops: Crops, middle: Tensor, depth: NDArray[np.float32], K: Tensor) -> _Seen:
    cloud = draw_points(crops.points, crops.mask)
    own = cloud.points[0][cloud.valid[0]] * crops.radius + crops.origin
    place = crops.origin[0] + middle * crops.radius
    return _Seen(Clouds(cloud.points - middle, cloud.valid), place, make_view(depth, K, own))


def _extent(depth: NDArray[np.float32], K: Tensor) -> float:
    """The radius that an object seemingly has: of the visible points about the middle of their bounding box, metres."""
    points = backproject(depth, K.numpy())
    low, high = np.quantile(points, (0.005, 0.995), axis=0)
    return float(np.quantile(np.linalg.norm(points - (low + high) / 2, axis=1), 0.995))


def _chosen(choice: Choice | None, tried: Alignments, numbers: Tensor) -> Estimate:
    if choice is None:  # not calibrated: by the energy alone
        return _estimate(tried.rotation, (-numbers[:, 0]).softmax(dim=0))
    chances = choice(numbers)[:-1].exp()
    _, chance, angle = best_of(chances[None], tried.rotation[None])
    return _estimate(tried.rotation, chances, float(choice.expected_error(chance, angle)))


def _estimate(rotations: Tensor, chances: Tensor, expected: float = float("nan"), summed: bool = True) -> Estimate:
    """Of alignments [k,3,3] and their chances [k]: neighbours are one candidate, by the surest of them."""
    joint = together(chances, rotations) if summed else chances
    apart = torch.rad2deg(geodesic(rotations[:, None], rotations[None]))
    left = torch.ones(len(rotations), dtype=torch.bool)
    candidates: list[Candidate] = []
    for place in (joint + chances).argsort(descending=True).tolist():
        if left[place]:
            left &= apart[place] >= DISTINCT
            chance = float(joint[place])
            candidates.append(Candidate(rotations[place].numpy().astype(np.float32), -log(max(chance, 1e-12)), chance))
    best = candidates[0]
    symmetric = len(candidates) > 1 and candidates[1].probability > RIVAL * best.probability
    return Estimate(best.rotation, best.energy, candidates, expected, symmetric)


def load_estimator(run: str | Path) -> RotationEstimator:
    """The estimator of a run folder of `vidssl train-rotation`.

    Raises:
        VidsslError: no such run, of another kind, or damaged.
    """
    config = read_config(run, made_by="vidssl train-rotation")
    if config.get("kind") != "rotation":
        raise VidsslError(f"{run} is a run of another kind; pass the --out folder of `vidssl train-rotation`")
    tensors = read_model(run)
    try:
        return _assembled(config, tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise VidsslError(f"{run}: config.json and model.safetensors don't fit ({reason}); train again") from error


def _assembled(config: dict[str, Any], tensors: dict[str, Tensor]) -> RotationEstimator:
    encoder = SphereNet(NetworkConfig(**_tuples(config["network"])))
    energy = AlignmentNet(EnergyConfig(**_tuples(config["energy"])))
    calibrated = any(name.startswith("choice.") for name in tensors)
    choice, quick = (Choice(NUMBERS), Choice(NUMBERS)) if calibrated else (None, None)
    parts: dict[str, Any] = {"encoder": encoder, "energy": energy, "choice": choice, "quick": quick}
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict({k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")})
    return RotationEstimator(encoder, energy, choice, quick)


def estimate_rotation(
    depth_a: ArrayLike,
    depth_b: ArrayLike,
    K: ArrayLike,
    model: RotationEstimator | None = None,
    radius: float | None = None,
) -> Estimate:
    """The rotation from view a to view b, by a trained model, or by registration from many starts when none is given.

    Args and errors are those of `RotationEstimator.estimate`; without a model, probabilities only tell the order.
    """
    if model is not None:
        return model.estimate(depth_a, depth_b, K, radius)
    from vidssl.rotation.registration import centred, from_starts, gicp_clouds

    pair = Pair.of(depth_a, depth_b, K, radius)
    scale = METRES / pair.radius  # registration's constants are for such a radius
    matrix = pair.K.double().numpy()
    points = [centred(backproject(depth, matrix)) for depth in (pair.a, pair.b)]
    rotations, misfits = from_starts(gicp_clouds(scale * points[0], scale * points[1]))
    chances = torch.from_numpy(-misfits / MISFIT).softmax(dim=0).float()
    return _estimate(
        torch.from_numpy(rotations), chances, summed=False
    )  # many starts end in a wide basin, right or not


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
