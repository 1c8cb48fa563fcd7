"""UNED from the winners' file: overlapping patches taken one by one, the head written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import toy_backbones as toys
from identisim.errors import InputError
from identisim.metrics import registry
from identisim.metrics.uned import FILE
from identisim.models.uned import load_uned
from identisim.models.weights import WeightsError

TOY = toys.Toy(width=160, heads=2, patch=14, stride=12, grid=4, hidden=320, eps=1e-5)
"""Heads of 80 dimensions and patches of 14 pixels every 12, as ViT-H/14 there."""

SIDE = 4 * 12 + 2


def tower_state() -> toys.State:
    return toys.dreamsim_clip_state(TOY)


def head_state() -> toys.State:
    return toys.random_tensors({"fc1.weight": (24, toys.PROJECTED), "fc1.bias": (24,)}, seed=5)


def published_state(prefix: str = "module.") -> toys.State:
    """The winners' names: open_clip's below backbone., the head and the classifier of the training."""
    state = toys.open_clip_state(tower_state(), prefix="backbone.") | head_state()
    state["fc2.weight"] = torch.randn(100, 24)
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def embedding_by_hand(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Vector and patches of one picture."""
    state, head = tower_state(), {name: tensor.double() for name, tensor in head_state().items()}
    tokens = toys.last_block(state, TOY, pixels)
    embedding = toys.final_norm(state, TOY, tokens[0]) @ state["proj"].double()
    return head["fc1.weight"] @ embedding + head["fc1.bias"], tokens[1:]


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_vector_and_patches_are_those_of_a_computation_by_hand(tmp_path: Path, prefix: str) -> None:
    torch.save(published_state(prefix), tmp_path / FILE)
    model = load_uned(tmp_path / FILE)
    assert model.size == SIDE
    pixels = toys.random_pixels(2, SIDE, SIDE)
    found = model(pixels)
    assert found.patches.shape == (2, 4, 4, 160)
    for i in range(2):
        vector, patches = embedding_by_hand(pixels[i])
        torch.testing.assert_close(found.cls[i], vector.float(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.patches[i].flatten(0, 1), patches.float(), rtol=1e-5, atol=1e-5)


def test_the_metric_squashes_and_normalises_as_in_training(tmp_path: Path) -> None:
    torch.save(published_state(), tmp_path / FILE)
    metric: Any = registry.build("uned", device="cpu", weights=tmp_path)
    pictures, vectors = [toys.picture(1), toys.picture(2, 60, 30)], []
    for image in pictures:
        vector, _ = embedding_by_hand(toys.squashed(image, SIDE, toys.OPENAI))
        vectors.append(vector / vector.norm())
    assert metric.embed(pictures) == pytest.approx(torch.stack(vectors).float().numpy(), abs=1e-5)
    assert metric.similarity(*pictures)[0] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    again: Any = registry.build("uned", device="cpu", weights=tmp_path / FILE)
    assert again.fingerprint == metric.fingerprint
    changed = published_state()
    changed["module.fc1.bias"][0] += 1e-3
    torch.save(changed, tmp_path / FILE)
    assert registry.build("uned", device="cpu", weights=tmp_path).fingerprint != metric.fingerprint


FAULTS: dict[str, tuple[Callable[[toys.State], object], str]] = {
    "no head": (lambda s: s.pop("module.fc1.bias"), "is not the winner's file: expected fc1"),
    "no projection": (lambda s: s.pop("module.backbone.proj"), "is not the winner's file"),
    "no class": (lambda s: s.pop("module.backbone.class_embedding"), "is not the winner's file"),
    "another classifier": (
        lambda s: s.update({"module.fc3.weight": torch.ones(2)}),
        r"unexpected \(fc3\.weight\)",
    ),
    "a number": (
        lambda s: s.update({"module.backbone.logit_scale": torch.tensor(1.0)}),
        r"unexpected \(logit_scale\)",
    ),
    "missing": (lambda s: s.pop("module.backbone.ln_post.bias"), r"1 names are missing \(norm\.bias\)"),
    "gap": (
        lambda s: s.update({"module.backbone.transformer.resblocks.7.ln_1.bias": torch.ones(160)}),
        r"expected blocks 0 to 2; got blocks\.7",
    ),
    "shape": (
        lambda s: s.update({"module.fc1.weight": torch.ones(24, 64)}),
        r"\(24, 64\) instead of \(24, 96\)",
    ),
    "positions": (
        lambda s: s.update({"module.backbone.positional_embedding": torch.ones(16, 160)}),
        r"\(16, 160\) instead of \(17, 160\)",
    ),
    "NaN": (lambda s: s["module.fc1.bias"].fill_(torch.nan), "NaN or infinite"),
    "NaN inside": (lambda s: s["module.backbone.proj"].fill_(torch.nan), "NaN or infinite"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_files_with_one_fault_are_refused(tmp_path: Path, case: str) -> None:
    change, message = FAULTS[case]
    state = published_state()
    change(state)
    torch.save(state, tmp_path / FILE)
    with pytest.raises(WeightsError, match=message) as caught:
        load_uned(tmp_path / FILE)
    assert str(tmp_path / FILE) in str(caught.value)


def test_a_width_that_is_no_multiple_of_the_heads_is_refused(tmp_path: Path) -> None:
    other = toys.dreamsim_clip_state(replace(TOY, width=128))
    state = toys.open_clip_state(other, prefix="backbone.") | head_state()
    torch.save(state, tmp_path / FILE)
    with pytest.raises(WeightsError, match="a width that is a multiple of 80"):
        load_uned(tmp_path / FILE)


def test_other_pixels_are_refused(tmp_path: Path) -> None:
    torch.save(published_state(), tmp_path / FILE)
    model = load_uned(tmp_path / FILE)
    for shape in ((1, 3, 56, 56), (3, SIDE, SIDE), (1, 1, SIDE, SIDE)):
        with pytest.raises(InputError, match=rf"pixels \(B, 3, {SIDE}, {SIDE}\)"):
            model(torch.zeros(shape))


def test_without_the_file_one_is_told_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{FILE}.*kaggle\.com/datasets/louieshao.*{FILE}"):
        registry.build("uned", device="cpu", weights=tmp_path)
