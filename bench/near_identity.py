"""Who tells a near-identity from another view? Triplet accuracy on fresh identities of the world.

`python bench/near_identity.py [--identities 200] [--seed 1000]`: for every identity, anchor = its view 0, positive =
its view 1, negatives = one view of each of three near-identities (strength ⅓, ⅔, 1), all against other backgrounds,
lights and poses. The seed is none that training uses. Ties count half.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from identisim import load_metric
from identisim.records import View, read_views
from identisim.world.sample import write_world

STRENGTHS = (1 / 3, 2 / 3, 1.0)


def accuracies(name: str, root: Path, views: list[View]) -> list[float]:
    """Triplet accuracy of a metric against the near-identities of each strength."""
    metric = load_metric(name)
    paths: dict[str, list[Path]] = {}
    for view in views:
        paths.setdefault(view.identity, []).append(root / view.path)
    names = [identity for identity in paths if "-near" not in identity]
    anchors = [paths[identity][0] for identity in names]
    positive = metric.similarity(anchors, [paths[identity][1] for identity in names])
    found = []
    for number in range(len(STRENGTHS)):
        negative = metric.similarity(
            anchors, [paths[f"{identity}-near{number + 1}"][0] for identity in names]
        )
        found.append(float((positive > negative).mean() + 0.5 * (positive == negative).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--identities", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--metric", action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = write_world(
            folder, identities=options.identities, views=2, seed=options.seed, near=3, size=192
        )
        views = read_views(table)
        print(f"{options.identities} identities; chance 0.500, standard error at most "
              f"{0.5 / np.sqrt(options.identities):.3f} a column")  # fmt: skip
        print(f"{'metric':18s}" + "".join(f"strength {s:<6.2f}" for s in STRENGTHS) + "mean")
        for name in options.metric or ["compact", "ssim", "psnr", "colour-histogram"]:
            found = accuracies(name, Path(folder), views)
            print(f"{name:18s}" + "".join(f"{a:<15.3f}" for a in found) + f"{np.mean(found):.3f}", flush=True)


if __name__ == "__main__":
    main()
