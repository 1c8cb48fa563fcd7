"""The torchmetrics wrapper: the numbers of the public metric, one batch at a time, in copies, and over processes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

import identisim
from identisim.errors import InputError
from identisim.torchmetrics import IdentitySimilarity

COMPACT = identisim.load_metric("compact", device="cpu")
RANDOM = np.random.default_rng(0)


def pictures(count: int, height: int = 24, width: int = 30) -> Tensor:
    """(B, 3, H, W) uint8, each with noise of its own strength on one pattern."""
    pattern = RANDOM.integers(0, 256, (count, 3, height, width))
    strength = RANDOM.uniform(0, 1, (count, 1, 1, 1))
    ramp = np.linspace(0, 255, width)
    return torch.from_numpy((ramp * (1 - strength) + pattern * strength).astype(np.uint8))


A, B = pictures(5), pictures(5, 40, 20)
EXPECTED = COMPACT.similarity(list(A), list(B))


def test_the_mean_is_that_of_the_public_metric() -> None:
    metric = IdentitySimilarity(COMPACT)
    metric.update(A[:2], B[:2])
    metric.update(A[2:], B[2:])
    assert metric.compute().item() == pytest.approx(EXPECTED.astype(np.float64).mean(), abs=1e-7)
    assert metric.compute().dtype == torch.float32 and np.ptp(EXPECTED) > 0.01
    metric.reset()
    metric.update(A.float() / 255, B.double() / 255)
    assert metric.compute().item() == pytest.approx(EXPECTED.astype(np.float64).mean(), abs=1e-7)


@pytest.mark.parametrize(("name", "score"), [("compact", "cls"), ("psnr", None), ("phash", "pixels")])
def test_any_metric_by_name(name: str, score: str | None) -> None:
    metric = IdentitySimilarity(name, score, "cpu")
    metric.update(A, A.flip(0))
    expected = identisim.load_metric(name, score, "cpu").similarity(list(A), list(A.flip(0)))
    assert metric.compute().item() == pytest.approx(expected.mean(), rel=1e-6)


def test_forward_gives_the_value_of_the_batch_and_keeps_all() -> None:
    metric = IdentitySimilarity(COMPACT)
    assert metric(A[:2], B[:2]).item() == pytest.approx(EXPECTED[:2].mean(), abs=1e-6)
    assert metric(A[2:], B[2:]).item() == pytest.approx(EXPECTED[2:].mean(), abs=1e-6)
    assert metric.compute().item() == pytest.approx(EXPECTED.mean(), abs=1e-6)


def test_only_two_scalars_are_kept_and_nothing_is_learnt() -> None:
    metric = IdentitySimilarity(COMPACT)
    metric.update(A, B)
    assert [state.shape for state in metric.metric_state.values()] == [(), ()]
    assert not list(metric.parameters()) and not metric.state_dict()
    assert metric.higher_is_better and not metric.is_differentiable and not metric.full_state_update
    metric.to(torch.float16)
    metric.update(A, B)
    assert metric.compute().item() == pytest.approx(EXPECTED.mean(), abs=1e-3)


def test_nothing_seen_gives_nan_with_the_usual_warning() -> None:
    metric = IdentitySimilarity(COMPACT)
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        assert metric.compute().isnan()
    metric.update(A[:0], B[:0])
    assert metric.compute().isnan()


def test_copies_share_the_network_and_pickles_hold_the_name() -> None:
    metric = IdentitySimilarity("compact", "cls", "cpu")
    metric.update(A, B)
    for other in (metric.clone(), copy.deepcopy(metric)):
        assert other.source.metric is metric.source.metric
        other.update(A[:1], A[:1])
        assert other.compute() != metric.compute()
    data = pickle.dumps(metric)
    assert len(data) < 20_000  # the weights take 11 MB
    loaded = pickle.loads(data)
    assert torch.equal(loaded.compute(), metric.compute())
    loaded.update(A[:1], A[:1])
    metric.update(A[:1], A[:1])
    assert torch.equal(loaded.compute(), metric.compute())
    assert pickle.loads(pickle.dumps(IdentitySimilarity(COMPACT)))(A, B).item() == pytest.approx(
        EXPECTED.mean()
    )


def test_a_collection_keeps_score_kinds_apart() -> None:
    collection = MetricCollection(
        {kind: IdentitySimilarity("compact", kind, "cpu") for kind in ("cls", "match")}
    )
    # equal after the first batch: torchmetrics takes metrics with equal states for the same metric
    collection.update(A, A)
    assert collection.compute()["cls"].item() == pytest.approx(1, abs=1e-5)
    collection.update(A, B)
    found = collection.compute()
    for kind in ("cls", "match"):
        expected = identisim.load_metric("compact", kind, "cpu").similarity([*A, *A], [*A, *B]).mean()
        assert found[kind].item() == pytest.approx(expected, abs=1e-5)
    assert abs(found["cls"] - found["match"]) > 1e-3
    clones = collection.clone(prefix="test_")
    clones.reset()
    assert clones(A, A)["test_cls"].item() == pytest.approx(1, abs=1e-5)


def test_bad_input_is_refused() -> None:
    metric = IdentitySimilarity(COMPACT)
    with pytest.raises(InputError, match=r"expected pictures \(B, 3, H, W\); got \(3, 24, 30\)"):
        metric.update(A[0], B[0])
    with pytest.raises(InputError, match="5 and 4 images came"):
        metric.update(A, B[:4])
    with pytest.raises(InputError, match=r"got values from -1 to .*pass \(x \+ 1\) / 2"):
        metric.update(A / 127.5 - 1, B)
    with pytest.raises(InputError, match="score and device are chosen when a metric is loaded"):
        IdentitySimilarity(COMPACT, "cls")
    with pytest.raises(InputError, match="unknown metric 'compect'"):
        IdentitySimilarity("compect")
    with pytest.raises(ValueError, match="sync_on_computes"):
        IdentitySimilarity(COMPACT, sync_on_computes=True)


def test_without_torchmetrics_the_error_names_the_extra() -> None:
    code = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'torchmetrics' else real(name, package)\n"
        "import identisim.torchmetrics\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "InputError: identisim.torchmetrics needs torchmetrics" in done.stderr
    assert "pip install 'identisim[torchmetrics]'" in done.stderr


RANKS = """
import sys
import torch
import torch.distributed as dist
from identisim.torchmetrics import IdentitySimilarity

rank, store, data = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
a, b = torch.load(data, weights_only=True)
metric = IdentitySimilarity("psnr", None, "cpu")
mine = slice(0, 3) if rank == 0 else slice(3, 4)
metric.update(a[mine], b[mine])
first = metric.compute().item()
last = slice(4, 4) if rank == 0 else slice(4, 5)  # one rank has run out of pictures
metric.update(a[last], b[last])
second = metric.compute().item()
dist.barrier()
dist.destroy_process_group()
print(first, second)
"""


@pytest.mark.slow
def test_two_processes_together_give_the_mean_of_all(tmp_path: Path) -> None:
    torch.save((A[:, :, :20, :20].contiguous(), B[:, :, :20, :20].contiguous()), tmp_path / "data.pt")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(rank), str(tmp_path / "store"), str(tmp_path / "data.pt")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert all(run.returncode == 0 for run in runs), outputs
    psnr = identisim.load_metric("psnr")
    scores = psnr.similarity(list(A[:, :, :20, :20]), list(B[:, :, :20, :20])).astype(np.float64)
    for out, _ in outputs:
        first, second = (float(word) for word in out.split()[-2:])
        assert first == pytest.approx(scores[:4].mean(), rel=1e-6)
        assert second == pytest.approx(scores.mean(), rel=1e-6)
    # a mean of the means of the ranks would be another number
    assert abs(scores[:3].mean() / 2 + scores[3] / 2 - scores[:4].mean()) > 1e-3


def test_plot_draws_the_value() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    metric = IdentitySimilarity("psnr")
    values = [metric(A[i : i + 1, :, :20, :20], B[i : i + 1, :, :20, :20]) for i in range(3)]
    _, axes = metric.plot(values)
    assert np.allclose(axes.lines[0].get_ydata(), values)
