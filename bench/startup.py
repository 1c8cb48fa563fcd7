"""How long a first answer takes: `identisim compare` beside `import torch, transformers`, in the same run.

`python bench/startup.py [--repeats 5]` prints medians and their ratio, and the cost of `import identisim`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def seconds(command: list[str], repeats: int) -> float:
    """Median wall time of a command, after one run that fills the caches."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    program = Path(sys.executable).with_name("identisim")
    with tempfile.TemporaryDirectory() as folder:
        pictures = [str(Path(folder) / name) for name in ("a.png", "b.png")]
        for number, path in enumerate(pictures):
            noise = np.random.default_rng(number).integers(0, 256, (480, 640, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        bare = seconds([sys.executable, "-c", "pass"], repeats)
        light = seconds([sys.executable, "-c", "import identisim"], repeats)
        heavy = seconds([sys.executable, "-c", "import torch, transformers"], repeats)
        compare = seconds([str(program), "compare", *pictures], repeats)
    print(f"import identisim            {light - bare:6.3f} s above an empty interpreter")
    print(f"import torch, transformers  {heavy:6.3f} s")
    print(f"identisim compare a b       {compare:6.3f} s, {compare / heavy:.2f} × the line above")


if __name__ == "__main__":
    main()
