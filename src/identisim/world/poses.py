"""Joints: how an object's parts swing, sit and lie in one picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from identisim.world.mesh import Mesh, rotation

Array = np.ndarray
Joints = tuple[tuple[str, tuple[float, float, float]], ...]
Turn = tuple[float, float, float]
STANDING: tuple[Turn, Mapping[str, Turn]] = ((0.0, 0.0, 0.0), {})
# whole-body turn, then turns of joints by the beginning of their names, in degrees
ANIMAL: tuple[tuple[float, Turn, Mapping[str, Turn]], ...] = (
    (0.45, (0, 0, 0), {}),
    (
        0.25,
        (-42, 0, 0),
        {"foreleg": (42, 0, 0), "hindleg": (-42, 0, 0), "head": (38, 0, 0), "tail": (50, 0, 0)},
    ),
    (0.2, (0, 0, 0), {"foreleg": (-84, 0, 0), "hindleg": (-78, 0, 0), "tail": (15, 0, 0)}),
    (0.1, (0, 0, 82), {"foreleg": (-25, 0, 0), "hindleg": (20, 0, 0), "head": (0, 0, -40)}),
)
TOY: tuple[tuple[float, Turn, Mapping[str, Turn]], ...] = (
    (0.45, (0, 0, 0), {}), (0.4, (0, 0, 0), {"leg": (-82, 0, 0)}), (0.15, (-85, 0, 0), {"leg": (-10, 0, 0)}),
)  # fmt: skip
POSTURES = {"animal": ANIMAL, "plush": TOY}
"""Chance, whole-body turn and joints of every posture of a family; the rest of the chance is standing."""


def _posture(family: str, rng: np.random.Generator) -> tuple[Turn, Mapping[str, Turn]]:
    draw = float(rng.random())
    for chance, body, joints in POSTURES.get(family, ()):
        if draw < chance:
            return body, joints
        draw -= chance
    return STANDING


def posed(mesh: Mesh, family: str, joints: Joints, pose: int) -> tuple[Array, Array]:
    """Vertices and normals (V, 3) with every joint swung by its own angle; the lowest point stays where it was.

    joints: name and pivot of every part; the parts of one joint turn together, about the first of them. pose: the seed.
    """
    vertices, normals = mesh.vertices.astype(np.float64), mesh.normals.astype(np.float64)
    names = sorted({name for name, _ in joints if name})
    if not names:
        return vertices, normals
    rng = np.random.default_rng([pose, 5])
    swings = {name: rng.normal(0, 14, 3) * (1.5, 1, 0.6) for name in names}
    body, bends = _posture(family, np.random.default_rng([pose, 9]))
    low = vertices[:, 1].min()
    pivots: dict[str, Array] = {}
    for number, (name, position) in enumerate(joints):
        if not name:
            continue
        pivot = pivots.setdefault(name, np.array(position))
        rows = mesh.parts == number
        bend = next((np.array(turn) for start, turn in bends.items() if name.startswith(start)), np.zeros(3))
        matrix = rotation(tuple(swings[name])) @ rotation(tuple(bend))
        vertices[rows] = (vertices[rows] - pivot) @ matrix.T + pivot
        normals[rows] = normals[rows] @ matrix.T
    if any(body):
        matrix = rotation(body)
        middle = (vertices.min(0) + vertices.max(0)) / 2
        vertices, normals = (vertices - middle) @ matrix.T + middle, normals @ matrix.T
    vertices[:, 1] += low - vertices[:, 1].min()
    return vertices, normals
