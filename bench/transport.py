"""Time the transport distance against geomloss in one run, and say how far the two are apart.

    python bench/transport.py            B in 1, 4, 8 pairs of 784 tokens of 1024 dimensions
    python bench/transport.py --quick    one pair of 196 tokens of 64 dimensions

The settings are ID-Sim's (blur = scaling = 0.05, not debiased). Times are medians in milliseconds; the
candidates take turns, so that a change in the machine's load hits all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import geomloss
import torch
from torch import Tensor
from torch.nn.functional import normalize

from identisim.similarity import transport_distance

Distance = Callable[[Tensor, Tensor], Tensor]

LOSS = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.05, debias=False, diameter=2.0)


def geomloss_batched(a: Tensor, b: Tensor) -> Tensor:
    return LOSS(normalize(a, dim=-1), normalize(b, dim=-1))


def geomloss_one_by_one(a: Tensor, b: Tensor) -> Tensor:
    """As the authors of ID-Sim call it."""
    pairs = zip(a.split(1), b.split(1), strict=True)
    return torch.cat([geomloss_batched(one_a, one_b) for one_a, one_b in pairs])


CANDIDATES: dict[str, Distance] = {
    "identisim": transport_distance,
    "geomloss batched": geomloss_batched,
    "geomloss one by one": geomloss_one_by_one,
}


def with_gradients(distance: Distance, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    value = distance(a, b)
    return (value.detach(), *torch.autograd.grad(value.sum(), (a, b)))


def medians(runs: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Milliseconds of each run; the first round, which warms up, does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def measure(pairs: int, tokens: int, dimensions: int, repeats: int, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(pairs, tokens, dimensions, generator=generator).to(device)
    # half signal, half noise: distances as between two pictures of one object
    b = a + torch.randn(pairs, tokens, dimensions, generator=generator).to(device)
    with torch.no_grad():
        forward = medians({name: partial(d, a, b) for name, d in CANDIDATES.items()}, repeats, device)
    both = medians(
        {name: partial(with_gradients, d, a, b) for name, d in CANDIDATES.items()}, repeats, device
    )
    for name in CANDIDATES:
        ratios = f"{forward[name] / forward['identisim']:6.2f} × {both[name] / both['identisim']:8.2f} ×"
        print(f"{pairs:5d}  {name:20s} {forward[name]:10.1f} {both[name]:20.1f}   {ratios}")

    value, *gradients = with_gradients(transport_distance, a, b)
    expected, *expected_gradients = with_gradients(geomloss_batched, a, b)
    deviation = ((value - expected) / expected).abs().max().item()
    gradient_deviation = max(
        ((ours - theirs).abs().max() / theirs.abs().max()).item()
        for ours, theirs in zip(gradients, expected_gradients, strict=True)
    )
    print(f"       largest relative deviation: value {deviation:.1e}, gradient {gradient_deviation:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small pair")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    tokens, dimensions = (196, 64) if arguments.quick else (784, 1024)
    print(f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads")
    print(f"N = M = {tokens} tokens, D = {dimensions}, float32; × = times the duration of identisim")
    print("pairs  candidate            forward ms  forward+backward ms   forward   forward+backward")
    for pairs in (1,) if arguments.quick else (1, 4, 8):
        measure(pairs, tokens, dimensions, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
