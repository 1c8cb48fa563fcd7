"""`identisim embed` at size: two thousand images, ten kills at random moments, the same table as one clean run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from identisim.world.families import sample_identity
from identisim.world.render import render
from identisim.world.view import sample_view

IMAGES, KILLS = 2000, 10
PROGRAM = Path(sys.executable).with_name("identisim")


def _photos(folder: Path) -> Path:
    """Crops of forty renderings, all different, in two formats; three of the files are broken."""
    folder.mkdir()
    for number in range(40):
        drawn = Image.fromarray(render(sample_identity(50, number), sample_view(50, number, 0), 160).image)
        for crop in range(IMAGES // 40):
            box = (crop, crop // 2, 110 + crop, 100 + crop // 2)
            drawn.crop(box).save(folder / f"{number:02d}-{crop:02d}.{'jpg' if crop % 3 else 'png'}")
    for name in ("07-01.jpg", "20-10.jpg", "33-20.jpg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:400])
    return folder


def _command(photos: Path, out: Path) -> list[str]:
    return [str(PROGRAM), "embed", str(photos), "--out", str(out), "--on-error", "skip"]


def _tables(out: Path) -> dict[str, object]:
    found = {
        path.name: pq.read_table(path).to_pydict() for path in sorted((out / "shards").glob("*.parquet"))
    }
    return found | {"failures": pq.read_table(out / "failures.parquet").to_pydict()}


@pytest.mark.slow
def test_ten_kills_leave_the_same_rows_as_a_clean_run(tmp_path: Path) -> None:
    photos, killed_out, clean_out = _photos(tmp_path / "photos"), tmp_path / "killed", tmp_path / "clean"
    start = time.monotonic()
    subprocess.run(_command(photos, clean_out), check=True, capture_output=True)
    seconds = time.monotonic() - start
    rng = random.Random(11)
    killed, sizes = 0, set()
    for _ in range(KILLS):
        process = subprocess.Popen(
            _command(photos, killed_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.2, 1.0) * seconds / 3)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        sizes.add(len(list(killed_out.glob("shards/*.json"))))
    done = subprocess.run(_command(photos, killed_out), check=True, capture_output=True, text=True)
    assert killed >= KILLS // 2 and len(sizes) > 1, (
        killed,
        sizes,
    )  # the kills came in the middle of the work
    assert "3 failed" in done.stdout
    clean = _tables(clean_out)
    assert _tables(killed_out) == clean
    rows = sum(len(table["path"]) for name, table in clean.items() if name != "failures")  # type: ignore[index,call-overload]
    assert rows == IMAGES - 3
    for path in sorted((clean_out / "shards").glob("*.parquet")):
        assert (killed_out / "shards" / path.name).read_bytes() == path.read_bytes()
