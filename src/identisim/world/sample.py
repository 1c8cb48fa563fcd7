"""Stage: a folder of world pictures with their masks and every parameter."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from identisim.errors import InputError
from identisim.images import save_png
from identisim.records import View, read_json, write_json, write_views
from identisim.world.alter import alter
from identisim.world.families import sample_identity
from identisim.world.identity import Identity
from identisim.world.render import render
from identisim.world.view import sample_view

VERSION = 2
"""Bumped when the same numbers no longer give the same pictures."""
_WORTH_PROCESSES = 300  # pictures; below this a second process costs more than it brings


@dataclass(frozen=True)
class WorldSample:
    """identities objects with `near` near-identities each, `views` pictures of each, `size` pixels a side."""

    identities: int = 20
    views: int = 4
    seed: int = 0
    near: int = 0
    size: int = 256

    def __post_init__(self) -> None:
        for name, least in (("identities", 1), ("views", 1), ("seed", 0), ("near", 0), ("size", 16)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if self.size > 2048:
            raise InputError(f"size must be at most 2048 pixels; got {self.size}")


def members(config: WorldSample, number: int) -> list[Identity]:
    """Identity `number` and its near-identities, of strength 1 / near, 2 / near, … 1."""
    first = sample_identity(config.seed, number)
    near = [
        alter(first, (i + 1) / config.near, config.seed * 7919 + number * 64 + i) for i in range(config.near)
    ]
    return [first, *near]


def write_world(
    out: str | os.PathLike[str], *, identities: int = 20, views: int = 4, seed: int = 0, near: int = 0, size: int = 256,
    processes: int | None = None, progress: bool = True,
) -> Path:  # fmt: skip
    """Write `images/FAMILY/IDENTITY/VIEW.png`, the same under `masks/`, and `views.parquet`; returns the latter.

    The pictures depend on (seed, identity, view) alone. Pictures already there are kept, so a killed run goes on where
    it stopped; a folder made with other numbers is refused. processes: how many draw at once (default: all cores).
    Raises InputError for numbers out of range and for such a folder.
    """
    config = WorldSample(identities, views, seed, near, size)
    root = Path(out)
    _claim(root, config)
    found: list[View] = []
    total = identities * (1 + near) * views
    with tqdm(total=total, unit="picture", desc="world", disable=None if progress else True) as bar:
        for records in _in_processes(partial(_draw, root, config), range(identities), total, processes):
            found += records
            bar.update(len(records))
    return write_views(root / "views.parquet", found)


def _claim(root: Path, config: WorldSample) -> None:
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; expected a folder to write the world to")
    root.mkdir(parents=True, exist_ok=True)
    note, content = root / "world.json", {"version": VERSION, **dataclasses.asdict(config)}
    if note.exists() and read_json(note) != content:
        raise InputError(
            f"{root} holds a world made with other numbers ({note}); choose another folder or remove it"
        )
    write_json(note, content)


def _in_processes(
    draw: partial[list[View]], numbers: Iterable[int], total: int, processes: int | None
) -> Iterator[list[View]]:
    count = processes or (os.cpu_count() or 1 if total >= _WORTH_PROCESSES else 1)
    if count == 1:
        yield from map(draw, numbers)
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield from pool.map(draw, numbers, chunksize=1)


def _draw(root: Path, config: WorldSample, number: int) -> list[View]:
    """Draw what is missing of one identity; its records."""
    records = []
    for member, identity in enumerate(members(config, number)):
        name = f"{identity.family}-{config.seed}-{number:06d}" + (f"-near{member}" if member else "")
        for view_number in range(config.views):
            view = sample_view(config.seed, number, view_number + member * config.views)
            place = Path(identity.family) / name / f"{view_number:03d}.png"
            image_path, mask_path = root / "images" / place, root / "masks" / place
            if not (image_path.exists() and mask_path.exists()):
                drawn = render(identity, view, config.size)
                image_path.parent.mkdir(parents=True, exist_ok=True)
                mask_path.parent.mkdir(parents=True, exist_ok=True)
                save_png(image_path, drawn.image)
                save_png(mask_path, drawn.mask)
            parameters = {"key": identity.key, "identity": identity.parameters, "view": view.parameters}
            records.append(
                View(
                    path=f"images/{place.as_posix()}", identity=name, dataset="world", split="test",
                    mask=f"masks/{place.as_posix()}", category=identity.family, parameters=json.dumps(parameters),
                )
            )  # fmt: skip
    return records
