"""Generated solid objects: an endless, varied set of household-like shapes, from a seed alone.

    make_solid(seed) -> Mesh     family drawn by its share -> body -> protrusions -> stretched -> centred, radius 0.1

Most have no rotation that maps them onto themselves; the `plain` family and some others do (see `symmetry`).
"""

from collections.abc import Callable

import numpy as np

from . import solid_parts as parts
from .meshes import Mesh
from .solid_bodies import AXES, Rng, attached, block, stick_out
from .solid_parts import Part, about, join
from .solid_things import furniture, machined, piping, profile, tool, vessel


def make_solid(seed: int) -> Mesh:
    """One object: closed parts (they may overlap), normalised, named `solid-SEED-FAMILY`.

    Args:
        seed: any number from 0; the same seed gives the same object.
    """
    rng = np.random.default_rng([seed, 20_250])
    names = list(FAMILIES)
    shares = np.array([share for _, share in FAMILIES.values()])
    name = names[rng.choice(len(names), p=shares / shares.sum())]
    solid = FAMILIES[name][0](rng)
    if name != "plain":
        solid = solid.scaled(*np.exp(rng.uniform(-0.25, 0.25, 3)))
    return Mesh(
        f"solid-{seed}-{name}", solid.vertices.astype(np.float32), solid.triangles.astype(np.int32)
    ).normalised()


def boxy(rng: Rng) -> Part:
    """A block with blocks, bars and pegs on its faces."""
    size = np.sort(rng.uniform(0.25, 1.0, 3) * [1, 0.8, 0.6])[::-1][rng.permutation(3)]
    body = block(rng, size)
    found = [body]
    for _ in range(rng.integers(1, 6)):
        length = rng.uniform(0.15, 0.7)
        width = rng.uniform(0.08, 0.4) * (1 if rng.random() < 0.7 else 0.5)
        direction = AXES[rng.integers(6)]
        tilt = 0.0 if rng.random() < 0.75 else 0.5
        on = found[rng.integers(len(found))] if rng.random() < 0.3 else body
        found.append(attached(rng, on, stick_out(rng, length, width), tilt, direction))
    return join(found)


def crossing(rng: Rng) -> Part:
    """Bars, slabs and rods through each other, off centre."""
    found: list[Part] = []
    for index in range(rng.integers(2, 5)):
        size = rng.uniform(0.12, 0.4, 3)
        size[(index + rng.integers(2)) % 3] = rng.uniform(0.6, 1.2)
        angle = 0.0 if rng.random() < 0.6 else rng.uniform(-0.6, 0.6)
        bar = block(rng, size).turned(about(int(rng.integers(3)), angle))
        if found:  # its middle lies inside an earlier one, so they hold together
            on = found[rng.integers(len(found))].vertices
            bar = bar.moved(*(rng.dirichlet(np.full(len(on), 0.3)) @ on))
        found.append(bar)
    return join(found)


def limbs(rng: Rng) -> Part:
    """A round body with tapering limbs and a head."""
    radius = rng.uniform(0.15, 0.3)
    length = rng.uniform(0.0, 0.6)
    body = parts.capsule(radius, length, bottom=radius * rng.uniform(0.6, 1.2)).scaled(1, rng.uniform(0.6, 1), 1)
    found = [body]
    for _ in range(rng.integers(2, 6)):
        reach = rng.uniform(0.25, 0.7)
        thick = radius * rng.uniform(0.25, 0.6)
        knee = rng.normal(0, 0.25, 2) * reach
        path = [[0, 0, 0], [*(knee * 0.4), reach * 0.5], [*(-knee * 0.3), reach]]
        steps = np.linspace(0, 1, 7)
        curve = np.stack([np.interp(steps, [0, 0.5, 1], axis) for axis in np.array(path).T], axis=1)
        limb = join(
            [
                parts.tube(curve, thick * np.linspace(1.0, rng.uniform(0.4, 0.9), 7)),
                parts.capsule(thick * rng.uniform(0.6, 1.3), 0.0).moved(*curve[-1]),
            ]
        )
        found.append(attached(rng, body, limb, tilt=0.5))
    if rng.random() < 0.5:
        head = block(rng, rng.uniform(0.2, 0.5, 3)) if rng.random() < 0.4 else parts.capsule(radius * 0.7, 0.1)
        found.append(head.moved(rng.uniform(-0.1, 0.1), 0, length + radius))
    return join(found)


def plain(rng: Rng) -> Part:
    """One primitive with symmetries: box, cylinder, cone, ball, capsule, ring, prism, gear, nut, bottle, cross."""
    a, b, c = rng.uniform(0.3, 1.0, 3)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    hoop = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    choices: list[Callable[[], Part]] = [
        lambda: parts.box(a, b, c),
        lambda: parts.box(a, a, c),
        lambda: parts.cylinder(a / 2, c),
        lambda: parts.cylinder(a / 2, c, top=a * rng.uniform(0, 0.3)),
        lambda: parts.capsule(a / 2, c),
        lambda: parts.capsule(a / 2, 0.0).scaled(1, 1, b),
        lambda: parts.tube(hoop, rng.uniform(0.15, 0.4), torus=True),
        lambda: parts.rounded(parts.regular(int(rng.choice([3, 4, 6]))), c, 0.05),
        lambda: parts.extrude(parts.wavy(8, 0.2), 0.3 * c),
        lambda: parts.ring(parts.regular(6), parts.circle() * 0.5, 0.5 * c),
        lambda: parts.turned_part([(0.3, 0), (0.3, 0.6), (0.12, 0.8), (0.12, 1.0)]),
        lambda: join([parts.box(1, 0.25, 0.25), parts.box(0.25, 1, 0.25), parts.box(0.25, 0.25, c)]),
    ]
    return choices[rng.integers(len(choices))]()


FAMILIES: dict[str, tuple[Callable[[Rng], Part], float]] = {  # name -> how to make it, share
    "boxy": (boxy, 0.26),
    "crossing": (crossing, 0.1),
    "limbs": (limbs, 0.12),
    "vessel": (vessel, 0.12),
    "tool": (tool, 0.1),
    "profile": (profile, 0.09),
    "machined": (machined, 0.06),
    "piping": (piping, 0.06),
    "furniture": (furniture, 0.05),
    "plain": (plain, 0.04),
}
