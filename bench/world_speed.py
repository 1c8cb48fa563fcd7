"""Pictures per second of the world's renderer: one process and all cores, at 128 and 256 pixels.

`python bench/world_speed.py [--identities 40]`
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

from identisim.world.families import sample_identity
from identisim.world.render import render
from identisim.world.sample import write_world
from identisim.world.view import sample_view


def rendering_rate(identities: int, size: int, views: int = 4) -> float:
    """Pictures per second in this process, fresh objects included."""
    render(sample_identity(0, 0), sample_view(0, 0, 0), size)  # compile
    start = time.perf_counter()
    for number in range(1, identities + 1):
        for view in range(views):
            render(sample_identity(0, number), sample_view(0, number, view), size)
    return identities * views / (time.perf_counter() - start)


def stage_rate(identities: int, processes: int, views: int = 8) -> float:
    """Pictures per second of the whole stage, PNG files and start of processes included, at 256 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_world(folder, identities=identities, views=views, processes=processes, progress=False)
        return identities * views / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--identities", type=int, default=40)
    options = parser.parse_args()
    for size in (128, 256):
        print(f"render, one process, {size} px: {rendering_rate(options.identities, size):6.1f} pictures/s")
    for processes in sorted({1, os.cpu_count() or 1}):
        rate = stage_rate(options.identities, processes)
        print(f"write_world, {processes} process(es), 256 px: {rate:6.1f} pictures/s")


if __name__ == "__main__":
    main()
