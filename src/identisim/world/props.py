"""What gets in the way of the camera: hands, twigs, grass blades, bars."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from identisim.world.identity import Identity, Material
from identisim.world.palette import material
from identisim.world.solids import ball, limb, tube

Random = np.random.Generator
SKINS = ((0.93, 0.76, 0.65), (0.82, 0.62, 0.48), (0.6, 0.42, 0.3), (0.36, 0.24, 0.17))
LEAVES = ((0.25, 0.4, 0.13), (0.4, 0.55, 0.2), (0.18, 0.3, 0.15), (0.55, 0.5, 0.15), (0.6, 0.3, 0.1))


def hand(rng: Random) -> Identity:
    """A hand with five fingers and a sleeve."""
    skin = SKINS[int(rng.integers(len(SKINS)))]
    parts = [
        ball((0, 0.55, 0), (0.3, 0.34, 0.12)),
        limb((0, 0.35, 0), 0.2, 0.7),
        limb((0, 0.0, 0), 0.26, 0.8, 1),
    ]
    curl = rng.uniform(0, 0.5)
    for number in range(4):
        x = (number - 1.5) * 0.15
        tip = (x * 1.3, 1.15 - 0.08 * abs(number - 1.4) - curl * 0.4, curl * 0.5)
        parts.append(tube([(x, 0.8, 0), (x * 1.15, 1.0 - curl * 0.1, curl * 0.3), tip], 0.075, 0, tip=0.06))
    parts.append(tube([(0.25, 0.45, 0), (0.45, 0.65, 0.1), (0.48, 0.85, 0.15)], 0.09, 0, tip=0.07))
    flesh = Material("plain", (skin,) * 3, gloss=0.15, sharpness=10)
    return Identity("hand", tuple(parts), (flesh, material(rng)))


def twig(rng: Random) -> Identity:
    """A leafy twig or a tuft of blades."""
    parts, blades = [], rng.random() < 0.5
    for _ in range(int(rng.integers(3, 6))):
        lean, heading, tall = rng.uniform(0.1, 0.5), rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.4)
        x, z = lean * np.cos(heading), lean * np.sin(heading)
        stem = [(0, 0, 0), (x * 0.3, tall * 0.5, z * 0.3), (x, tall, z)]
        parts.append(
            tube(stem, 0.07 if blades else 0.02, 1 if blades else 0, tip=0.005, flat=0.3 if blades else 1.0)
        )
        for _ in range(0 if blades else 4):
            t = rng.uniform(0.3, 1)
            turn = (rng.uniform(-60, 60), rng.uniform(0, 360), rng.uniform(-60, 60))
            parts.append(ball((x * t, tall * t, z * t), (0.09, 0.17, 0.02), 1, turn=turn))
    leaf = LEAVES[int(rng.integers(len(LEAVES)))]
    darker = (leaf[0] * 0.6, leaf[1] * 0.6, leaf[2] * 0.6)
    wood = Material("plain", ((0.3, 0.22, 0.14),) * 3)
    return Identity("twig", tuple(parts), (wood, Material("clouds", (leaf, darker, leaf), gloss=0.2)))


PROPS: tuple[Callable[[Random], Identity], ...] = (hand, twig, twig)
