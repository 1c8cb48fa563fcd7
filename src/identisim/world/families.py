"""Families of objects: a family fixes the plan (a carton, a four-legged animal, …); everything else is drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from identisim.world.creatures import animal, plush
from identisim.world.household import clock, fruit, glasses, jar, teapot
from identisim.world.identity import Identity
from identisim.world.packages import bag, bottle, carton, flat
from identisim.world.things import sculpture, shoe, vehicle, vessel
from identisim.world.toys import drawing, duck, robot
from identisim.world.wearables import backpack, boot

# the order is part of the world: identity numbers take turns through it
FAMILIES: dict[str, Callable[[np.random.Generator], Identity]] = {
    "carton": carton,
    "bottle": bottle,
    "vessel": vessel,
    "animal": animal,
    "plush": plush,
    "vehicle": vehicle,
    "bag": bag,
    "shoe": shoe,
    "flat": flat,
    "sculpture": sculpture,
    "backpack": backpack,
    "teapot": teapot,
    "clock": clock,
    "glasses": glasses,
    "robot": robot,
    "jar": jar,
    "fruit": fruit,
    "drawing": drawing,
    "boot": boot,
    "duck": duck,
}


def sample_identity(seed: int, number: int) -> Identity:
    """Identity `number` of the world `seed`; families take turns, so that any range of numbers holds all of them."""
    names = list(FAMILIES)
    return FAMILIES[names[number % len(names)]](np.random.default_rng([seed, 1, number]))
