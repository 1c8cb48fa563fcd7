"""Embedding speed of full-size backbones, ours against plain transformers with eager attention, in the same run.

`python bench/backbone_speed.py [--threads 2] [--rounds 7] [--openvino] [--memory]`: ViT-L/16 (DINOv3) at 448 and
ViT-B/14 (DINOv2) at 336 pixels, random weights read from a folder as users have it, one picture at a time, from pixels
that are already in memory. The columns take turns, and medians are compared. Both must give the same features: the
cosine of CLS and of every patch is printed and must be at least 0.9995.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812
from transformers import Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel

from identisim.export import export_metric
from identisim.images import Preprocessing
from identisim.metrics.metric import Array, EmbeddingMetric
from identisim.metrics.network import NetworkEncoder
from identisim.models.checkpoints import load_backbone
from identisim.models.formats import FORMATS
from identisim.models.tokens import Tokens

LEAST_COSINE = 0.9995
Encode = Callable[[Array], Tokens]

NETWORKS: dict[str, tuple[type[Any], Any, int]] = {
    "ViT-L/16 at 448": (
        DINOv3ViTModel,
        DINOv3ViTConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            num_register_tokens=4,
            image_size=448,
        ),
        448,
    ),
    # image_size is that of the run: off it, transformers scales positions otherwise than the published network
    "ViT-B/14 at 336": (Dinov2Model, Dinov2Config(image_size=336, patch_size=14), 336),
}


def save_random(name: str, folder: Path) -> None:
    kind, config, _ = NETWORKS[name]
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)


def ours(name: str, folder: Path) -> Encode:
    backbone = load_backbone(folder)
    return NetworkEncoder(backbone, "cpu", backbone.patch)


def plain(name: str, folder: Path) -> Encode:
    kind, config, _ = NETWORKS[name]
    net = kind.from_pretrained(folder, attn_implementation="eager").eval()
    before = 1 + getattr(config, "num_register_tokens", 0)

    def encode(pixels: Array) -> Tokens:
        with torch.no_grad():
            tokens = net(pixel_values=torch.from_numpy(pixels)).last_hidden_state
        side = round((tokens.shape[1] - before) ** 0.5)
        return Tokens(tokens[:, 0], tokens[:, before:].unflatten(1, (side, side)))

    return encode


def half(encode: Encode) -> Encode:
    def encode_half(pixels: Array) -> Tokens:
        with torch.autocast("cpu", torch.bfloat16):
            return encode(pixels)

    return encode_half


def openvino(encode: NetworkEncoder, size: int, folder: Path) -> Encode:
    metric = EmbeddingMetric("bench", encode, Preprocessing(size), "bench:0")
    done = export_metric(metric, "openvino", folder / "net.xml")
    run = FORMATS["openvino"].load(done.path, ["cls", "patches"])

    def encode_there(pixels: Array) -> Tokens:
        found = run(pixels)
        return Tokens(torch.from_numpy(found["cls"]), torch.from_numpy(found["patches"]))

    return encode_there


BUILDERS = {"plain": plain, "ours": ours}


def cosines(a: Tokens, b: Tokens) -> tuple[float, float]:
    """Least cosine of CLS and of the patches."""
    return (
        float(F.cosine_similarity(a.cls, b.cls).min()),
        float(F.cosine_similarity(a.patches, b.patches, dim=-1).min()),
    )


def take_turns(columns: dict[str, Encode], pixels: Array, rounds: int) -> dict[str, float]:
    """Median seconds of each; the first of every column is not counted."""
    seconds: dict[str, list[float]] = {column: [] for column in columns}
    for turn in range(rounds + 1):
        for column, encode in columns.items():
            start = time.perf_counter()
            encode(pixels)
            if turn:
                seconds[column].append(time.perf_counter() - start)
    return {column: statistics.median(values) for column, values in seconds.items()}


def compare(name: str, rounds: int, with_openvino: bool) -> None:
    size = NETWORKS[name][2]
    random = np.random.default_rng(0)
    pixels = random.standard_normal((1, 3, size, size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        save_random(name, Path(folder))
        columns = {column: build(name, Path(folder)) for column, build in BUILDERS.items()}
        columns["ours, bf16 autocast"] = half(columns["ours"])
        if with_openvino:
            encoder: Any = columns["ours"]
            columns["OpenVINO, float32"] = openvino(encoder, size, Path(folder))
        reference = columns["plain"](pixels)
        found = {column: cosines(encode(pixels), reference) for column, encode in columns.items()}
        medians = take_turns(columns, pixels, rounds)
    print(f"{name}, batch 1, {torch.get_num_threads()} threads, median of {rounds}:")
    for column, seconds in medians.items():
        cls, patches = found[column]
        gain = medians["plain"] / seconds
        print(
            f"  {column:20} {1000 * seconds:7.0f} ms, {gain:.2f}x plain; "
            f"cosine to plain: CLS {cls:.6f}, patches at least {patches:.6f}",
            flush=True,
        )
    assert min(found["ours"]) >= LEAST_COSINE, f"{name}: ours and plain differ: {found['ours']}"


def peak_mib(name: str, column: str, folder: Path) -> float:
    """Peak resident memory of this process with one picture; run it in a process of its own."""
    size = NETWORKS[name][2]
    BUILDERS[column](name, folder)(np.zeros((1, 3, size, size), np.float32))
    # not getrusage: its maximum is inherited from the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def compare_memory(name: str, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_random(name, Path(folder))
        for column in BUILDERS:
            command = [sys.executable, __file__, "--threads", str(threads), "--peak", name, column, folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"  {column:20} {float(done.stdout.split()[-1]):7.0f} MiB at its peak", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--openvino", action="store_true", help="time the exported network too")
    parser.add_argument("--memory", action="store_true", help="peak memory, each in a process of its own")
    parser.add_argument("--peak", nargs=3, metavar=("NETWORK", "COLUMN", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        name, column, folder = options.peak
        print(peak_mib(name, column, Path(folder)))
        return
    for name in NETWORKS:
        compare(name, options.rounds, options.openvino)
        if options.memory:
            compare_memory(name, options.threads)


if __name__ == "__main__":
    main()
