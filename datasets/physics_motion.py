"""How the bodies of the physics videos move: exact laws in closed form, and the six kinds of scene made of them.

n instants, units metres, seconds, radians; x along the ground (or down the ramp), y away from the camera, z up.

Contacts are integrated event by event, not by a contact solver, so that a restitution of 0.7 is 0.7 and a friction of
0.3 is 0.3 to rounding. Bodies are rigid and homogeneous; those that do not roll keep their orientation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Path = Callable[[Floats], Floats]  # instants [n] -> positions of the centre [n,3]
REBOUND = 0.1  # seconds after a contact, without which a clip does not show how a body comes off it
EARTH = 9.81  # m/s², where gravity is not what varies


@dataclass(frozen=True)
class Body:
    """A rigid body. `half`: half its size along x, y, z, metres; a sphere's three are its radius."""

    shape: str  # sphere, cylinder (its axis upright) or box
    half: tuple[float, float, float]

    @property
    def volume(self) -> float:
        """Cubic metres; all bodies have one density, so masses go as volumes."""
        share = {"sphere": np.pi / 6, "cylinder": np.pi / 4, "box": 1.0}[self.shape]
        return float(8 * np.prod(self.half) * share)


@dataclass(frozen=True)
class Motion:
    """What happens in a video.

    Attributes:
        bodies: who moves; the first is the one the truth speaks of.
        paths: of each body's centre.
        turns: angle of the first body about the y axis at instants [n], None where it keeps its orientation.
        truth: what is known, by target name; what does not apply is absent.
        ramp: (angle downwards along +x, (x, z) of the middle of its surface, half length); None without one.
        pivot: where a pendulum hangs, [3]; None without one.
    """

    bodies: tuple[Body, ...]
    paths: tuple[Path, ...]
    truth: dict[str, float]
    turns: Callable[[Floats], Floats] | None = None
    ramp: tuple[float, tuple[float, float], float] | None = None
    pivot: Floats | None = None


# The laws


def fall_time(height: float, gravity: float, upwards: float = 0.0) -> float:
    """Seconds until a body thrown upwards (m/s) from `height` above the floor touches it."""
    return float((upwards + np.sqrt(upwards**2 + 2 * gravity * height)) / gravity)


def bounce_height(t: Floats, height: float, gravity: float, restitution: float) -> Floats:
    """Height [n] above the floor of a body released at `height`: Newton's law, rebound speed = restitution x impact.

    Rebounds shorter than a tenth of a millisecond count as rest.
    """
    z = height - gravity * t**2 / 2
    speed, start = np.sqrt(2 * gravity * height), fall_time(height, gravity)
    while (speed := restitution * speed) * 2 / gravity > 1e-4:
        since = np.maximum(t - start, 0)
        z = np.where(t >= start, speed * since - gravity * since**2 / 2, z)
        start += 2 * speed / gravity
    return np.where(t >= start, 0.0, np.maximum(z, 0.0))


def slide_distance(t: Floats, speed: float, friction: float, gravity: float) -> Floats:
    """Metres [n] slid: Coulomb friction decelerates by friction x gravity until the body stops."""
    t = np.minimum(t, abs(speed) / (friction * gravity))
    return speed * t - np.sign(speed) * friction * gravity * t**2 / 2


def impact_speeds(speed: float, masses: tuple[float, float], restitution: float) -> tuple[float, float]:
    """Speeds of striker and struck body, which was at rest, after a central impact: momentum and Newton's law."""
    common = speed * masses[0] / sum(masses)
    return (
        common - restitution * speed * masses[1] / sum(masses),
        common + restitution * speed * masses[0] / sum(masses),
    )


def roll_acceleration(shape: str, angle: float, gravity: float) -> float:
    """m/s² of a body that rolls down a slope without slipping: g sin(angle) / (1 + I / (m r²))."""
    inertia = {"sphere": 2 / 5, "cylinder": 1 / 2}[shape]
    return float(gravity * np.sin(angle) / (1 + inertia))


def swing_angle(t: Floats, amplitude: float, length: float, gravity: float) -> Floats:
    """Angle [n] of a pendulum released at `amplitude` (rad): θ'' = -g/L sin θ, by Runge and Kutta's fourth order."""
    steps = max(1, int(np.ceil(t.max() * 1000)))
    h, rate = t.max() / steps, gravity / length
    angle, speed = np.empty(steps + 1), np.empty(steps + 1)
    angle[0], speed[0] = amplitude, 0.0
    for k in range(steps):
        a, v = angle[k], speed[k]
        f1 = -rate * np.sin(a)
        f2 = -rate * np.sin(a + h / 2 * v)
        f3 = -rate * np.sin(a + h / 2 * v + h**2 / 4 * f1)
        f4 = -rate * np.sin(a + h * v + h**2 / 2 * f2)
        angle[k + 1] = a + h * v + h**2 / 6 * (f1 + f2 + f3)
        speed[k + 1] = v + h / 6 * (f1 + 2 * f2 + 2 * f3 + f4)
    return np.interp(t, np.arange(steps + 1) * h, angle)


# The scenes


def fall(rng: np.random.Generator, bodies: list[Body], seconds: float) -> Motion:
    """Dropped or thrown up, with some speed to the side; stays where it lands."""
    body = _pick(rng, bodies, "sphere", "cylinder", "box")
    gravity, height = rng.uniform(2, 20), rng.uniform(1.3, 2.2)
    upwards = np.sqrt(2 * gravity * rng.uniform(0.05, 0.5)) if rng.random() < 0.3 else 0.0
    contact = fall_time(height, gravity, upwards)
    reach = rng.uniform(-1.3, 1.3)  # metres to the side until it lands

    def path(t: Floats) -> Floats:
        t = np.minimum(t, contact)
        x = reach * (t / contact - 0.5)
        return _points(x, 0 * t, body.half[2] + height + upwards * t - gravity * t**2 / 2)

    return Motion((body,), (path,), {"gravity": gravity} | _contact(contact, seconds))


def bounce(rng: np.random.Generator, bodies: list[Body], seconds: float) -> Motion:
    """Dropped, and bounces on without friction."""
    body = _pick(rng, bodies, "sphere", "cylinder", "box")
    gravity, height, restitution = rng.uniform(2, 20), rng.uniform(1.4, 2.4), rng.uniform(0.3, 0.95)
    drift = rng.uniform(-1.2, 1.2) / seconds

    def path(t: Floats) -> Floats:
        z = body.half[2] + bounce_height(t, height, gravity, restitution)
        return _points(drift * (t - seconds / 2), 0 * t, z)

    contact = fall_time(height, gravity)
    known = {"gravity": gravity} | _contact(contact, seconds)
    if contact + REBOUND <= seconds:
        known["restitution"] = restitution
    return Motion((body,), (path,), known)


def roll(rng: np.random.Generator, bodies: list[Body], seconds: float) -> Motion:
    """Up a slope and down again without slipping; a cylinder about its axis, which lies along y."""
    body = _pick(rng, bodies, "sphere", "cylinder")
    gravity, angle, side = rng.uniform(2, 20), np.deg2rad(rng.uniform(11, 20)), rng.choice((-1.0, 1.0))
    slope = roll_acceleration(body.shape, angle, gravity)
    longest = np.clip(np.sqrt(2 * 2.5 / slope), seconds / 2, seconds)  # 2.5 m up or down, more in long clips only
    turning = rng.uniform(seconds - longest, longest)  # when the body turns round
    extent = slope * max(turning, seconds - turning) ** 2 / 2
    half = extent / 2 + 0.4
    middle = np.array([0.0, half * np.sin(angle) + 0.05])
    down, normal = np.array([side * np.cos(angle), -np.sin(angle)]), np.array([side * np.sin(angle), np.cos(angle)])

    def distance(t: Floats) -> Floats:
        return np.asarray(slope * (t - turning) ** 2 / 2 - extent / 2)

    def path(t: Floats) -> Floats:
        xz = middle + distance(t)[:, None] * down + body.half[0] * normal
        return _points(xz[:, 0], 0 * t, xz[:, 1])

    return Motion(
        (body,),
        (path,),
        {"gravity": gravity},
        turns=lambda t: side * distance(t) / body.half[0],
        ramp=(float(side * angle), (0.0, float(middle[1])), float(half)),
    )


def slide(rng: np.random.Generator, bodies: list[Body], seconds: float) -> Motion:
    """Pushed once, slides over the ground and is braked by friction, on Earth."""
    body = _pick(rng, bodies, "cylinder", "box")
    friction, distance, side = rng.uniform(0.05, 0.6), rng.uniform(0.8, 2.6), rng.choice((-1.0, 1.0))
    speed = np.sqrt(2 * friction * EARTH * distance)

    def path(t: Floats) -> Floats:
        x = side * (slide_distance(t, speed, friction, EARTH) - distance / 2)
        return _points(x, 0 * t, 0 * t + body.half[2])

    return Motion((body,), (path,), {"friction": friction})


def collide(rng: np.random.Generator, bodies: list[Body], seconds: float) -> Motion:
    """A body slides into another at rest, centrally; both are braked by friction, on Earth."""
    striker, struck = _pick(rng, bodies, "cylinder", "box"), _pick(rng, bodies, "cylinder", "box")
    friction, restitution = rng.uniform(0.02, 0.3), rng.uniform(0.1, 1.0)
    gap, side = rng.uniform(0.7, 1.3), rng.choice((-1.0, 1.0))
    slowest = max(0.5, gap / (0.7 * seconds))  # m/s: they meet in the clip
    impact = rng.uniform(slowest, max(2.0, 1.5 * slowest))
    speed = np.sqrt(impact**2 + 2 * friction * EARTH * gap)
    contact = float((speed - impact) / (friction * EARTH))
    after = impact_speeds(impact, (striker.volume, struck.volume), restitution)
    meeting = striker.half[0] + struck.half[0]

    def striking(t: Floats) -> Floats:
        x = slide_distance(np.minimum(t, contact), speed, friction, EARTH) - gap - meeting / 2
        x += slide_distance(np.maximum(t - contact, 0), after[0], friction, EARTH)
        return _points(side * x, 0 * t, 0 * t + striker.half[2])

    def being_struck(t: Floats) -> Floats:
        x = meeting / 2 + slide_distance(np.maximum(t - contact, 0), after[1], friction, EARTH)
        return _points(side * x, 0 * t, 0 * t + struck.half[2])

    known = {"friction": friction, "restitution": restitution}
    return Motion((striker, struck), (striking, being_struck), known | _contact(contact, seconds))


def pendulum(rng: np.random.Generator, bodies: list[Body], seconds: float) -> Motion:
    """A simple pendulum: a weightless rod, and a bob that turns freely on it, so it keeps its orientation."""
    body = _pick(rng, bodies, "sphere", "cylinder", "box")
    gravity, length = rng.uniform(2, 20), rng.uniform(0.9, 1.6)
    amplitude, before = np.deg2rad(rng.uniform(25, 50)), rng.uniform(0, 2.0)  # released `before` seconds ago
    pivot = np.array([0.0, 0.0, length + body.half[2] + 0.25])

    def path(t: Floats) -> Floats:
        angle = swing_angle(t + before, amplitude, length, gravity)
        return pivot + length * _points(np.sin(angle), 0 * t, -np.cos(angle))

    return Motion((body,), (path,), {"gravity": gravity}, pivot=pivot)


SCENARIOS: dict[str, Callable[[np.random.Generator, list[Body], float], Motion]] = {
    "fall": fall,
    "bounce": bounce,
    "roll": roll,
    "slide": slide,
    "collide": collide,
    "pendulum": pendulum,
}


def mean_speed(path: Path, seconds: float) -> float:
    """Length of the path of the centre over the clip's duration, m/s; summed over steps of 0.2 ms."""
    points = path(np.linspace(0, seconds, int(np.ceil(seconds * 5000)) + 1))
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum() / seconds)


def _pick(rng: np.random.Generator, bodies: list[Body], *shapes: str) -> Body:
    suitable = [body for body in bodies if body.shape in shapes]
    return suitable[rng.integers(len(suitable))]


def _contact(time: float, seconds: float) -> dict[str, float]:
    """Time to contact from the first frame, where the clip shows the contact."""
    return {"time_to_contact": time} if time <= seconds else {}


def _points(x: Floats, y: Floats, z: Floats) -> Floats:
    return np.stack([x, y, z], axis=-1)
