"""Parts in the words of a modeller: balls, blocks, turned pieces, tubes and lofts."""

from __future__ import annotations

from collections.abc import Sequence

from identisim.world.identity import Part, Vector

REST: Vector = (0.0, 0.0, 0.0)


def _floats(values: Sequence[float]) -> Vector:
    x, y, z = values
    return float(x), float(y), float(z)


def ball(
    at: Sequence[float], size: Sequence[float], material: int = 0, *, joint: str = "", boxy: float = 1.0,
    turn: Sequence[float] = REST, label: int = -1,
) -> Part:  # fmt: skip
    """Superellipsoid with half axes `size`; boxy below 1 squares it."""
    shape = (float(boxy), float(boxy))
    return Part("ellipsoid", shape, _floats(size), _floats(at), _floats(turn), material, joint, label)


def block(
    at: Sequence[float], size: Sequence[float], material: int = 0, *, joint: str = "", rounding: float = 0.1,
    taper: tuple[float, float] = (1.0, 1.0), turn: Sequence[float] = REST, label: int = -1, wrap: str = "front",
) -> Part:  # fmt: skip
    """Rounded box with half sides `size`, its top scaled by the taper in x and z."""
    shape = (float(rounding), float(taper[0]), float(taper[1]))
    return Part("box", shape, _floats(size), _floats(at), _floats(turn), material, joint, label, wrap)


def turned(
    profile: Sequence[tuple[float, float]], material: int = 0, *, at: Sequence[float] = REST, square: float = 1.0,
    size: Sequence[float] = (1.0, 1.0, 1.0), turn: Sequence[float] = REST, joint: str = "", label: int = -1,
) -> Part:  # fmt: skip
    """Surface of revolution about y through (radius, height) points."""
    shape = (float(square), *(float(value) for point in profile for value in point))
    return Part(
        "lathe", shape, _floats(size), _floats(at), _floats(turn), material, joint, label, "around"
    )  # fmt: skip


def ring(
    at: Sequence[float], size: Sequence[float], thickness: float, material: int = 0, *, start: float = 0.0,
    stop: float = 360.0, turn: Sequence[float] = REST, joint: str = "",
) -> Part:  # fmt: skip
    """Ring, handle or arch in the x–y plane between two angles in degrees."""
    shape = (float(thickness), float(start), float(stop))
    return Part("torus", shape, _floats(size), _floats(at), _floats(turn), material, joint)


def limb(
    at: Sequence[float], radius: float, length: float, material: int = 0, *, tip: float = 1.0,
    turn: Sequence[float] = REST, joint: str = "",
) -> Part:  # fmt: skip
    """Rounded limb that hangs down from `at`."""
    size = (float(radius), float(length), float(radius))
    return Part("capsule", (float(tip),), size, _floats(at), _floats(turn), material, joint)


def tube(
    points: Sequence[Sequence[float]], radius: float, material: int = 0, *, tip: float | None = None,
    flat: float = 1.0, joint: str = "",
) -> Part:  # fmt: skip
    """Smooth tube through points, from `radius` to `tip`; flat below 1 makes a strap.

    Its origin, about which a joint swings it, is the first point.
    """
    origin = _floats(points[0])
    path = [float(v - o) for point in points for v, o in zip(point, origin, strict=True)]
    shape = (float(radius), float(radius if tip is None else tip), float(flat), *path)
    return Part("tube", shape, (1.0, 1.0, 1.0), origin, REST, material, joint)


def loft(
    stations: Sequence[tuple[float, float, float, float]], material: int = 0, *, square: float = 1.0,
    at: Sequence[float] = REST, joint: str = "", label: int = -1,
) -> Part:  # fmt: skip
    """Body along z through stations (z, centre y, half width, half height)."""
    shape = (float(square), *(float(value) for station in stations for value in station))
    return Part("loft", shape, (1.0, 1.0, 1.0), _floats(at), REST, material, joint, label)
