"""Families of solids that look like things: vessels, tools, profiles, machined parts, pipes, furniture."""

import numpy as np

from . import solid_parts as parts
from .solid_bodies import AXES, Rng, attached, block, stick_out
from .solid_parts import Part, about, facing, join


def vessel(rng: Rng) -> Part:
    """Mugs, cups, jugs, bottles, bowls: hollow or not, round or angular, with handle, spout or label."""
    height = rng.uniform(0.4, 1.3)
    knots = np.linspace(0, 1, 7)
    shape = {
        0: np.ones(7),  # mug
        1: np.interp(knots, [0, 0.55, 0.75, 0.8, 1], [1, 1, rng.uniform(0.3, 0.5), 0.35, 0.35]),  # bottle
        2: np.interp(knots, [0, 1], [rng.uniform(0.4, 0.8), 1]),  # tumbler
        3: 0.6 + 0.4 * np.sin(np.pi * (0.1 + knots * rng.uniform(0.7, 1.2))),  # vase
        4: np.sqrt(np.linspace(0.15, 1, 7)),  # bowl
    }[int(rng.integers(5))] * rng.uniform(0.25, 0.45)
    outline = [parts.circle(), parts.circle(), parts.squircle(5.0), parts.regular(6)][rng.integers(4)]
    outside = list(zip(shape, knots * height, strict=True))
    wall = rng.uniform(0.03, 0.08)
    inside = [(max(radius - wall, 0.05), max(z, wall)) for radius, z in reversed(outside)]
    found = [parts.turned_part(outside + inside if rng.random() < 0.7 else outside, outline)]
    middle = float(np.interp(0.5, knots, shape))
    if rng.random() < 0.75:
        size = rng.uniform(0.18, 0.38) * height
        at = rng.uniform(0.4, 0.6) * height
        angles = np.linspace(-np.pi / 2, np.pi / 2, 9)
        ends = [float(np.interp((at + size * s) / height, knots, shape)) - wall / 2 for s in np.sin(angles)]
        out = rng.uniform(0.6, 1.3) * size * np.abs(np.cos(angles)) ** rng.uniform(0.4, 1.0)
        path = np.stack([np.array(ends) + out, np.zeros(9), at + size * np.sin(angles)], axis=1)
        grip = parts.circle(12) * [1, rng.uniform(0.5, 2)]
        found.append(parts.tube(path, rng.uniform(0.03, 0.06), grip))
    if rng.random() < 0.45:  # a spout
        tip = rng.uniform(0.15, 0.4)
        path = np.array([[0, 0, -0.05], [0.3 * tip, 0, 0.4 * tip], [0.6 * tip, 0, tip], [1.2 * tip, 0, 1.3 * tip]])
        spout = parts.tube(path, np.linspace(0.09, 0.05, 4)).moved(middle * 0.85, 0, height * 0.45)
        found.append(spout.turned(about(2, rng.uniform(1.5, 4.8))))
    if rng.random() < 0.3:  # a lid with a knob, off the middle
        lid = parts.dome(float(shape[-1]) * 1.05, 0.12, outline)
        found += [lid.moved(0, 0, height), parts.capsule(0.05, 0.08).moved(rng.uniform(-0.1, 0.1), 0, height + 0.1)]
    return join(found)


def tool(rng: Rng) -> Part:
    """A long grip with a head: hammers, spanners, spoons, brushes, drivers, keys, taps."""
    length = rng.uniform(0.6, 1.2)
    thick = rng.uniform(0.04, 0.1)
    grip_outline = [parts.circle(), parts.squircle(4.0), parts.regular(6), parts.wavy(6, 0.15)][rng.integers(4)]
    swell = thick * (1 + 0.4 * np.sin(np.linspace(0, rng.uniform(2, 6), 8)))
    grip = parts.turned_part(list(zip(swell, np.linspace(0, length, 8), strict=True)), grip_outline)
    found = [grip.scaled(1, rng.uniform(0.6, 1.3), 1)]
    head = rng.integers(6)
    if head == 0:  # hammer, axe
        found.append(block(rng, np.array([rng.uniform(0.3, 0.6), rng.uniform(0.12, 0.25), 0.18])))
        if rng.random() < 0.7:
            peen = parts.hull([[0, -0.08, 0.08], [0, 0.08, 0.08], [0, 0.08, -0.08], [0, -0.08, -0.08], [0.35, 0, 0.02]])
            found.append(peen.moved(0.1, 0, 0))
    elif head == 1:  # open spanner: a thick arc
        angles = np.linspace(0.5, 2 * np.pi - 0.5, 14) - np.pi / 2 + rng.uniform(-0.4, 0.4)
        size = rng.uniform(0.14, 0.22)
        arc = np.stack([size * np.cos(angles), np.zeros(14), size * np.sin(angles) - size], axis=1)
        found.append(parts.tube(arc, thick * 0.9, parts.squircle(6.0, 12)))
    elif head == 2:  # spoon, ladle: a shell
        bowl = [(0.1, 0.0), (0.4, 0.02), (0.8, 0.1), (1.0, 0.25), (0.9, 0.25), (0.7, 0.16), (0.3, 0.08)]
        found.append(parts.turned_part(bowl).scaled(0.16, 0.22, 0.3).turned(about(0, np.pi / 2)).moved(0, 0.05, -0.15))
    elif head == 3:  # key, blade
        notch = rng.uniform(0.1, 0.3, 4)
        blade = [(-0.1, 0), (-0.1, -0.6), (0.1, -0.6 + notch[0])]
        blade += [(0.12 + notch[1], -0.4), (0.12 + notch[2], -0.25), (0.12, -0.2), (0.1, 0)]
        found.append(parts.extrude(blade, 0.06).moved(0, 0, -0.03).turned(about(0, np.pi / 2)))
        outer = parts.circle() * rng.uniform(0.15, 0.25)
        found.append(parts.ring(outer, outer * 0.6, 0.08).turned(about(0, np.pi / 2)).moved(0, 0.04, length + 0.1))
    elif head == 4:  # brush, mop, plug
        bulk = rng.uniform(0.2, 0.4, 3)
        found.append(block(rng, bulk).moved(rng.uniform(-0.1, 0.1), 0, 0))
        for side in (-1, 1):
            found.append(parts.box(0.06, 0.06, 0.3).moved(side * bulk[0] * 0.3, side * rng.uniform(0, 0.05), -0.25))
    else:  # pistol grip, tap, drill
        barrel = parts.cylinder(rng.uniform(0.1, 0.18), rng.uniform(0.4, 0.8), top=rng.uniform(0.05, 0.15))
        found.append(barrel.moved(0, 0, -0.2).turned(about(1, np.pi / 2 + rng.uniform(-0.3, 0.3))))
        found.append(block(rng, np.array([0.3, 0.22, 0.15])).moved(rng.uniform(-0.05, 0.15), 0, length))
    if rng.random() < 0.4:
        found.append(attached(rng, grip, stick_out(rng, 0.15, 0.08)))
    return join(found)


def profile(rng: Rng) -> Part:
    """Angle, channel, tee, step and wedge sections, drawn out, with a boss, a rib or a flange."""
    w, h = rng.uniform(0.4, 1.0, 2)
    t, s = rng.uniform(0.1, 0.25, 2)
    sections = [
        [(0, 0), (w, 0), (w, t), (s, t), (s, h), (0, h)],  # L
        [(0, 0), (w, 0), (w, h), (w - s, h * rng.uniform(0.8, 1)), (w - s, t), (s, t), (s, h), (0, h)],  # U
        [
            (0, h),
            (0, h - t),
            (w * 0.3, h - t),
            (w * 0.3, 0),
            (w * 0.3 + s, 0),
            (w * 0.3 + s, h - t),
            (w, h - t),
            (w, h),
        ],
        [
            (0, 0),
            (w, 0),
            (w, h * 0.35),
            (w * 0.6, h * 0.35),
            (w * 0.6, h * 0.7),
            (w * 0.3, h * 0.7),
            (w * 0.3, h),
            (0, h),
        ],
        [(0, 0), (w, 0), (w, h * 0.2), (w * rng.uniform(0.1, 0.6), h), (0, h)],  # wedge
        [(0, 0), (w, 0), (w, t), (s, t), (s, h - t), (w * 0.7, h - t), (w * 0.7, h), (0, h)],  # C
        [(0, 0), (w * 0.6, 0), (w * 0.6, h - t), (w, h - t), (w, h), (w * 0.4, h), (w * 0.4, t), (0, t)],  # Z
        [(0, h * 0.3), (w * 0.5, h * 0.3), (w * 0.5, 0), (w, h * 0.5), (w * 0.5, h), (w * 0.5, h * 0.7), (0, h * 0.7)],
    ]
    section = np.array(sections[rng.integers(len(sections))])
    body = parts.extrude(section - section.mean(0), rng.uniform(0.15, 0.8), top=1.0 if rng.random() < 0.7 else 0.75)
    found = [body]
    for _ in range(rng.integers(0, 4)):
        direction = AXES[rng.integers(6)]
        found.append(
            attached(rng, body, stick_out(rng, rng.uniform(0.1, 0.35), rng.uniform(0.08, 0.25)), 0.0, direction)
        )
    if rng.random() < 0.4:
        outer = parts.squircle(6.0) * rng.uniform(0.12, 0.25)
        eye = parts.ring(outer, parts.circle() * 0.6 * outer.max(), rng.uniform(0.06, 0.15))
        found.append(eye.turned(about(int(rng.integers(2)), np.pi / 2)).moved(*body.vertices[rng.integers(4)]))
    return join(found)


def machined(rng: Rng) -> Part:
    """Plates, gears, rings and pockets with holes, flanges and pegs."""
    teeth = int(rng.integers(5, 11))
    outer = [parts.circle(48), parts.squircle(8.0, 48), parts.regular(6, 48), parts.wavy(teeth, 0.2)][rng.integers(4)]
    outer = outer * rng.uniform(0.35, 0.6) * [1, rng.uniform(0.5, 1)]
    hole = parts.circle(len(outer)) * np.linalg.norm(outer, axis=1).min() * rng.uniform(0.3, 0.75)
    height = rng.uniform(0.1, 0.6)
    if rng.random() < 0.6:
        body = parts.ring(outer, np.add(hole, [0.0, rng.uniform(-0.05, 0.05)]), height)
    else:  # a pocket
        wall, floor = rng.uniform(0.6, 0.9), rng.uniform(0.15, 0.5) * height
        inner = outer * wall if rng.random() < 0.6 else hole
        body = parts.turned_part([(1, 0), (1, height), (1, height), (1, floor)], [outer, outer, inner, inner])
    found = [body]
    for _ in range(rng.integers(1, 5)):
        up = AXES[rng.choice([2, 5])] if rng.random() < 0.5 else None
        found.append(attached(rng, body, stick_out(rng, rng.uniform(0.1, 0.5), rng.uniform(0.08, 0.22)), 0.0, up))
    if rng.random() < 0.5:
        (wide, deep), (x, y) = rng.uniform(0.2, 0.7, 2), rng.uniform(-0.3, 0.3, 2)
        flange = parts.rounded(parts.squircle(rng.uniform(2, 8)), 0.1, 0.03)
        found.append(flange.scaled(wide, deep, 1).moved(x, y, -0.05))
    return join(found)


def piping(rng: Rng) -> Part:
    """Bent rods and pipes, hooks, springs' arcs, with flanges and ends."""
    radius = rng.uniform(0.05, 0.14)
    steps = np.linspace(0, 1, 20)
    knots = np.cumsum(rng.normal([0.3, 0, 0], 0.4, (4, 3)), axis=0)
    if rng.random() < 0.4:  # a hook: an arc of a circle, then straight on
        angles = steps * rng.uniform(2, 5)
        curve = np.stack([np.cos(angles), np.sin(angles), rng.uniform(-0.1, 0.1) * angles], axis=1) * rng.uniform(
            0.2, 0.5
        )
        curve = np.concatenate([curve[:1] - [[0, rng.uniform(0.3, 0.8), 0]], curve])
    else:  # a cubic Bézier curve
        a, b = 1 - steps[:, None], steps[:, None]
        curve = a**3 * knots[0] + 3 * a**2 * b * knots[1] + 3 * a * b**2 * knots[2] + b**3 * knots[3]
    outline = [parts.circle(12), parts.squircle(5.0, 12) * [1, rng.uniform(0.5, 2)]][rng.integers(2)]
    found = [parts.tube(curve, radius * np.linspace(1, rng.uniform(0.6, 1.2), len(curve)), outline)]
    for end, before in ((curve[0], curve[1]), (curve[-1], curve[-2])):
        kind = rng.integers(4)
        size = radius * rng.uniform(1.4, 2.6)
        finish = [
            parts.cylinder(size, rng.uniform(0.05, 0.15)),
            parts.capsule(size, 0.0),
            parts.box(*rng.uniform(1.5, 4, 3) * radius),
            parts.rounded(parts.regular(6), 0.15, 0.03).scaled(size, size, 1),
        ][kind]
        found.append(finish.turned(facing(end - before)).moved(*end))
    if rng.random() < 0.6:
        found.append(attached(rng, found[0], stick_out(rng, rng.uniform(0.15, 0.4), radius * rng.uniform(0.8, 2))))
    return join(found)


def furniture(rng: Rng) -> Part:
    """Chairs, tables, shelves, carts, lamps: a slab on legs with something on it."""
    x, y = rng.uniform(0.4, 1.0, 2)
    t = rng.uniform(0.05, 0.12)
    tall = rng.uniform(0.2, 0.7)
    thick = rng.uniform(0.05, 0.1)
    slab = parts.rounded(parts.squircle(rng.uniform(4, 12)), t, t * 0.3).scaled(x / 2, y / 2, 1)
    found = [slab if rng.random() < 0.5 else parts.box(x, y, t).moved(0, 0, t / 2)]
    wheels = rng.random() < 0.3
    for side in (-1, 1):
        for end in (-1, 1):
            at = (side * (x / 2 - thick), end * (y / 2 - thick))
            if wheels:
                wheel = parts.cylinder(tall * 0.35, thick).turned(about(0, np.pi / 2))
                found.append(wheel.moved(at[0], at[1] + thick / 2, -tall * 0.2))
            elif rng.random() < 0.92:
                found.append(parts.cylinder(thick * 0.4, tall, top=thick * 0.6).moved(*at, -tall + t / 2))
    if rng.random() < 0.7:  # back
        back = parts.box(thick, y * rng.uniform(0.5, 1), tall).moved(-x / 2 + thick / 2, 0, tall / 2)
        found.append(back.turned(about(1, rng.uniform(-0.2, 0))))
    for _ in range(rng.integers(1, 4)):
        found.append(
            attached(rng, found[0], stick_out(rng, rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.3)), 0.0, AXES[2])
        )
    return join(found)
