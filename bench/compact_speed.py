"""Embedding speed and memory of `compact` beside a ViT-S/16 at 224 (random weights), in the same run.

`python bench/compact_speed.py [--threads 2]`: images per second at batch 1 and 32, from pixels that are already in
memory, the two networks in turn, best of several rounds; peak memory of a process that embeds 32 images at once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from identisim.metrics.compact import SIZE
from identisim.metrics.registry import build

Encoder = Callable[[Tensor], object]


def compact() -> tuple[Encoder, int]:
    encode = build("compact", device="cpu").encode  # type: ignore[attr-defined]
    return lambda images: encode(images.numpy()), SIZE


def vit_small() -> tuple[Encoder, int]:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536)
    net = ViTModel(config, add_pooling_layer=False).eval().requires_grad_(False)

    def encode(images: Tensor) -> object:
        with torch.inference_mode():
            return net(images)

    return encode, 224


NETWORKS = {"compact": compact, "ViT-S/16": vit_small}


def rate(encode: Encoder, images: Tensor, seconds: float = 2.0) -> float:
    """Images per second."""
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        encode(images)
        done += len(images)
    return done / passed


def peak_mib(name: str, batch: int) -> float:
    """Peak resident memory of this process after a batch; run it in a process of its own."""
    encode, size = NETWORKS[name]()
    if batch:
        encode(torch.rand(batch, 3, size, size))
    # not getrusage: its maximum is inherited from the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak_mib(options.peak[0], int(options.peak[1])))
        return
    built = {name: network() for name, network in NETWORKS.items()}
    for batch in (1, 32):
        best = dict.fromkeys(built, 0.0)
        for _ in range(options.rounds):
            for name, (encode, size) in built.items():
                best[name] = max(best[name], rate(encode, torch.rand(batch, 3, size, size)))
        shown = ", ".join(f"{name} {value:.1f} images/s" for name, value in best.items())
        ratio = best["compact"] / best["ViT-S/16"]
        print(f"batch {batch}, {options.threads} threads: {shown}; ratio {ratio:.2f}", flush=True)
    for name in NETWORKS:
        idle, busy = (_peak_apart(name, batch, options.threads) for batch in (0, 32))
        print(
            f"memory {name}: {idle:.0f} MiB loaded, {busy:.0f} MiB at its peak with a batch of 32", flush=True
        )


def _peak_apart(name: str, batch: int, threads: int) -> float:
    command = [sys.executable, __file__, "--threads", str(threads), "--peak", name, str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
