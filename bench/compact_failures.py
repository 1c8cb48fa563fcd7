"""Pictures of the worst failures of `compact` on a fresh world, for its model card.

`python bench/compact_failures.py OUT.png [--identities 100] [--seed 1000]`: the least alike pairs of one object, the
most alike pairs of two objects, and the pictures whose foreground overlaps least with the mask (drawn in green).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from identisim.drawing import GREY, INK, WHITE, font
from identisim.evaluation.folder import read_collection
from identisim.evaluation.report import MetricScores, worst_pairs
from identisim.images import load_image
from identisim.metrics.compact import build_compact, load_packaged
from identisim.similarity import token_similarity_matrix
from identisim.training.foreground import foreground_overlap
from identisim.world.sample import write_world

SIDE, GAP, COLUMNS = 120, 8, 6


def pair_row(canvas: Image.Image, top: int, title: str, pairs: list[tuple[Path, Path, float]]) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, top), title, INK, font=font(15))
    for column, (a, b, similarity) in enumerate(pairs[:COLUMNS]):
        left = GAP + column * (SIDE + GAP)
        for row, path in enumerate((a, b)):
            picture = Image.fromarray(load_image(path)).resize((SIDE, SIDE))
            canvas.paste(picture, (left, top + 24 + row * (SIDE + 2)))
        draw.text((left, top + 24 + 2 * SIDE + 4), f"{similarity:.2f}", GREY, font=font(13))


def overlaid(image: np.ndarray, found: np.ndarray) -> Image.Image:
    painted = image.astype(float)
    painted[found] = 0.5 * painted[found] + np.array([0, 120, 0])
    return Image.fromarray(painted.astype(np.uint8)).resize((SIDE, SIDE))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--identities", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args()
    metric = build_compact()
    net = load_packaged("cpu")
    canvas = Image.new("RGB", (GAP + COLUMNS * (SIDE + GAP), 2 * (2 * SIDE + 56) + SIDE + 60), WHITE)
    with tempfile.TemporaryDirectory() as folder:
        write_world(folder, identities=options.identities, views=4, seed=options.seed, size=192)
        collection = read_collection(Path(folder) / "images")
        tokens = metric.tokens(list(collection.photos))
        matrix = token_similarity_matrix(tokens, tokens, metric.score).numpy()
        scores = MetricScores(metric, matrix, collection.identity, {})
        for row, (same, title) in enumerate(
            ((True, "one object, least alike"), (False, "two objects, most alike"))
        ):
            pairs = [(p.a, p.b, p.similarity) for p in worst_pairs(scores, collection.photos, same=same)]
            pair_row(canvas, GAP + row * (2 * SIDE + 56), title, pairs)
        images = np.stack([load_image(path) for path in collection.photos])
        masks = [
            load_image(Path(str(p).replace("/images/", "/masks/")))[..., 0] > 127 for p in collection.photos
        ]
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(images).permute(0, 3, 1, 2), 64)
        logits = torch.cat([net.foreground(part.float() / 255) for part in parts])
    overlaps = foreground_overlap(logits, torch.from_numpy(np.stack(masks)))
    found = torch.nn.functional.interpolate(logits[:, None], images.shape[1:3], mode="bilinear")[:, 0] > 0
    top = GAP + 2 * (2 * SIDE + 56)
    title = f"foreground found, worst of {len(images)} (mean IoU {overlaps.mean():.2f})"
    ImageDraw.Draw(canvas).text((GAP, top), title, INK, font=font(15))
    for column, index in enumerate(overlaps.argsort()[:COLUMNS].tolist()):
        picture = overlaid(images[index], found[index].numpy())
        canvas.paste(picture, (GAP + column * (SIDE + GAP), top + 24))
    # the palette keeps the file small enough for a repository
    canvas.quantize(128).save(options.out, optimize=True)
    print(f"mean IoU {overlaps.mean():.3f}, {options.out}")


if __name__ == "__main__":
    main()
