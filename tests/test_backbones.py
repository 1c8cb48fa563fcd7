"""Backbones from every public layout, against transformers' own forward pass and one written by hand."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import toy_backbones as toys
from identisim.errors import InputError
from identisim.models.architecture import shape_config
from identisim.models.backbone import KINDS, Backbone, Feature, resample_positions
from identisim.models.checkpoints import load_backbone, read_checkpoint
from identisim.models.names import canonical_names, canonical_state
from identisim.models.tokens import Tokens
from identisim.models.weights import WeightsError

HUB = (
    "vit",
    "dinov2",
    "dinov2 SwiGLU",
    "dinov2 registers",
    "dinov3",
    "dinov3 gated",
    "dinov3 7B",
    "clip",
    "siglip",
)
META = {
    "DINO": toys.DINO,
    "DINOv2": toys.DINOV2,
    "DINOv2 giant": toys.DINOV2_GIANT,
    "DINOv2 registers": toys.DINOV2_REGISTERS,
    "DINOv3": toys.DINOV3,
    "DINOv3 plus": toys.DINOV3_PLUS,
    "DINOv3 7B": toys.DINOV3_7B,
}
NATIVE, OTHER = (4, 4), (3, 5)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected.float(), rtol=tolerance, atol=tolerance)


def behind_blocks(network: Any, pixels: Tensor, **options: Any) -> tuple[Any, Tensor]:
    """What a network of transformers returns, and its tokens behind the last block."""
    seen: list[Tensor] = []
    blocks = next(m for m in network.modules() if isinstance(m, nn.ModuleList))
    handle = blocks[-1].register_forward_hook(
        lambda _module, _inputs, out: seen.append(out if isinstance(out, Tensor) else out[0])
    )
    with torch.no_grad():
        returned = network(pixel_values=pixels, **options)
    handle.remove()
    return returned, seen[0]


def same_tokens(found: Tokens, cls: Tensor, patches: Tensor, grid: tuple[int, int]) -> None:
    close(found.cls, cls)
    assert found.patches.shape[1:3] == grid
    close(found.patches.flatten(1, 2), patches)


@pytest.mark.parametrize("kind", HUB)
@pytest.mark.parametrize("public_names", [True, False])
def test_a_hub_folder_gives_what_transformers_gives(tmp_path: Path, kind: str, public_names: bool) -> None:
    network, pixels = toys.hub_network(kind), toys.random_pixels(2, 32, 32)
    if public_names:  # those of the files on the hub, which transformers still writes
        network.save_pretrained(tmp_path)
    else:  # those of its modules today
        toys.save_raw(tmp_path, network, network.state_dict())
    returned, blocks = behind_blocks(network, pixels)
    before = {"siglip": 0, "vit": 1, "dinov2": 1, "dinov2 SwiGLU": 1, "clip": 1}.get(kind, 5)
    cls = returned.last_hidden_state[:, 0]
    if kind in ("clip", "siglip"):
        cls = returned.image_embeds if kind == "clip" else returned.pooler_output
    backbone = load_backbone(tmp_path)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    same_tokens(backbone(pixels), cls, returned.last_hidden_state[:, before:], NATIVE)
    if kind != "siglip":
        last = load_backbone(tmp_path, "last-block")
        same_tokens(last(pixels), blocks[:, 0], blocks[:, before:], NATIVE)
    # the two are far from the same
    assert kind in ("clip", "siglip") or float((blocks - returned.last_hidden_state).abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["dinov2 registers", "dinov3", "dinov3 gated", "clip", "siglip"])
def test_any_resolution_as_in_transformers(tmp_path: Path, kind: str) -> None:
    network, pixels = toys.hub_network(kind), toys.random_pixels(2, 24, 56)
    network.save_pretrained(tmp_path)
    options = {"interpolate_pos_encoding": True} if kind in ("clip", "siglip") else {}
    with torch.no_grad():
        returned = network(pixel_values=pixels, **options)
    before = {"siglip": 0, "clip": 1}.get(kind, 5)
    found = load_backbone(tmp_path)(pixels)
    assert found.patches.shape == (2, 3, 7, 128)
    close(found.patches.flatten(1, 2), returned.last_hidden_state[:, before:])


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize("grid", [NATIVE, OTHER])
def test_metas_files_give_what_the_hand_computation_gives(
    tmp_path: Path, name: str, grid: tuple[int, int]
) -> None:
    toy, pixels = META[name], toys.random_pixels(2, grid[0] * 8, grid[1] * 8)
    state = toys.meta_state(toy)
    torch.save(state, tmp_path / "backbone.pth")
    positions = None
    if grid != NATIVE and toy.registers:  # the hub code of DINOv2 resamples those with registers otherwise
        positions = None if toy.rotary else toys.antialiased_positions(state["pos_embed"][0], grid)
    elif grid != NATIVE:
        positions = toys.bicubic_positions(state["pos_embed"][0], grid, offset=0.1)
    blocks = toys.last_block(state, toy, pixels[1], positions)
    patches = slice(1 + toy.registers, None)
    for feature, tokens in (("last-block", blocks), ("final", toys.final_norm(state, toy, blocks))):
        found = load_backbone(tmp_path / "backbone.pth", feature)(pixels)  # type: ignore[arg-type]
        same_tokens(found[1:], tokens[:1], tokens[None, patches], grid)


def clip_by_hand(state: toys.State, toy: toys.Toy, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding and patches of one picture."""
    tokens = toys.last_block(state, toy, pixels)
    return toys.final_norm(state, toy, tokens[0]) @ state["proj"].double(), tokens[1:]


def test_open_clips_file_gives_what_the_hand_computation_gives(tmp_path: Path) -> None:
    state, pixels = toys.dreamsim_clip_state(toys.OPEN_CLIP), toys.random_pixels(1, 32, 32)
    torch.save(toys.open_clip_state(state) | toys.text_state(), tmp_path / "open_clip_pytorch_model.bin")
    torch.save(toys.open_clip_state(state), tmp_path / "visual.pt")
    embedding, patches = clip_by_hand(state, toys.OPEN_CLIP, pixels[0])
    for name in ("open_clip_pytorch_model.bin", "visual.pt"):
        same_tokens(load_backbone(tmp_path / name)(pixels), embedding[None], patches[None], NATIVE)


@pytest.mark.parametrize("toy", [toys.CLIP, toys.OPEN_CLIP], ids=["OpenAI", "open_clip"])
def test_dreamsims_clip_in_dinos_names(tmp_path: Path, toy: toys.Toy) -> None:
    state, pixels = toys.dreamsim_clip_state(toy), toys.random_pixels(1, 32, 32)
    path = tmp_path / "clip_vitb16_pretrain.pth.tar"
    torch.save({"state_dict": state}, path)
    embedding, patches = clip_by_hand(state, toy, pixels[0])
    found = load_backbone(path, inside="state_dict", activation=toy.activation)(pixels)
    same_tokens(found, embedding[None], patches[None], NATIVE)
    with pytest.raises(WeightsError, match=r"clip_vitb16_pretrain\.pth\.tar.*state_dict"):
        load_backbone(path, activation=toy.activation)


@pytest.mark.parametrize("heads", [(1280, 16), (1408, 16), (1664, 16), (1792, 16), (1024, 16), (768, 12)])
def test_heads_of_the_published_sizes_of_open_clip(heads: tuple[int, int]) -> None:
    # width and heads of ViT-H-14, g-14, bigG-14, e-14, L-14 and B-16 in open_clip's model_configs
    width, count = heads
    with torch.device("meta"):
        state = {"cls": torch.zeros(width), "patch.weight": torch.zeros(width, 3, 14, 14)}
        state |= {"positions": torch.zeros(257, width), "pre_norm.weight": torch.zeros(width)}
        state |= {
            f"blocks.0.{name}": torch.zeros(width, 1)
            for name in ("norm1.weight", "q.weight", "mlp_in.weight")
        }
    config = shape_config(Path("clip.pt"), {}, state, "gelu")
    assert (config.num_attention_heads, config.image_size) == (count, 224)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dinov3s_periods_may_be_rounded_but_not_others(tmp_path: Path, dtype: torch.dtype) -> None:
    state, pixels = toys.meta_state(toys.DINOV3), toys.random_pixels(1, 32, 32)
    torch.save(state, tmp_path / "a.pth")
    exact = load_backbone(tmp_path / "a.pth")(pixels)
    torch.save(state | {"rope_embed.periods": state["rope_embed.periods"].to(dtype)}, tmp_path / "b.pth")
    assert torch.equal(load_backbone(tmp_path / "b.pth")(pixels).cls, exact.cls)
    wrong = state["rope_embed.periods"] ** 1.01
    torch.save(state | {"rope_embed.periods": wrong.to(dtype)}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"c\.pth.*periods"):
        load_backbone(tmp_path / "c.pth")


def test_norms_that_only_training_uses_are_left_out_and_others_not(tmp_path: Path) -> None:
    state, norm = toys.meta_state(toys.DINOV3_7B), {"weight": torch.ones(128), "bias": torch.ones(128)}
    pixels = toys.random_pixels(1, 32, 32)
    torch.save(state, tmp_path / "a.pth")
    torch.save(state | {f"local_cls_norm.{name}": t for name, t in norm.items()}, tmp_path / "b.pth")
    a, b = (load_backbone(tmp_path / name)(pixels).cls for name in ("a.pth", "b.pth"))
    assert torch.equal(a, b)
    # this one replaces the final norm of CLS in inference
    torch.save(state | {f"cls_norm.{name}": t for name, t in norm.items()}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"c\.pth.*2 are unexpected \(cls_norm"):
        load_backbone(tmp_path / "c.pth")


# containers


def test_sharded_folders_and_pickles_hold_the_same_network(tmp_path: Path) -> None:
    network, pixels = toys.hub_network("dinov2"), toys.random_pixels(1, 32, 32)
    network.save_pretrained(tmp_path / "one")
    network.save_pretrained(tmp_path / "shards", max_shard_size="400KB")
    assert len(list((tmp_path / "shards").glob("model-*-of-*.safetensors"))) > 1
    (tmp_path / "bin").mkdir()
    network.config.save_pretrained(tmp_path / "bin")
    published = load_file(tmp_path / "one" / "model.safetensors")
    torch.save(published, tmp_path / "bin" / "pytorch_model.bin")
    expected = load_backbone(tmp_path / "one")(pixels)
    for name in ("shards", "bin"):
        found = load_backbone(tmp_path / name)(pixels)
        assert torch.equal(found.cls, expected.cls) and torch.equal(found.patches, expected.patches)


OLD = {
    **dict.fromkeys(
        ("architectures", "bad_words_ids", "problem_type", "torch_dtype", "prefix", "sep_token_id")
    ),
    **dict.fromkeys(("add_cross_attention", "do_sample", "is_decoder", "torchscript", "use_bfloat16"), False),
    **{"_name_or_path": "", "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pruned_heads": {}},
    **{"return_dict": True, "tie_word_embeddings": True, "top_k": 50, "transformers_version": "4.21.3"},
}
"""Settings in the vision_config of CLIP's published files of 2022."""


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_of_a_network_of_images_and_text_the_image_half_is_taken(tmp_path: Path, kind: str) -> None:
    whole, pixels = toys.hub_network(f"whole {kind}"), toys.random_pixels(1, 32, 32)
    whole.save_pretrained(tmp_path / "a")
    with torch.no_grad():
        expected = whole.get_image_features(pixel_values=pixels)
    expected = getattr(expected, "pooler_output", expected)
    close(load_backbone(tmp_path / "a")(pixels).cls, expected)
    # older files have the counts of positions too, and every setting that there was
    state = load_file(tmp_path / "a" / "model.safetensors")
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    toys.save_raw(tmp_path / "b", whole, state)
    vision = json.loads((tmp_path / "b" / "config.json").read_text())["vision_config"]
    write_config(tmp_path / "b", vision_config=OLD | vision, transformers_version=None, torch_dtype="float32")
    close(load_backbone(tmp_path / "b")(pixels).cls, expected)


def test_classifiers_around_a_backbone_are_left_out(tmp_path: Path) -> None:
    network, pixels = toys.hub_network("dinov2"), toys.random_pixels(1, 32, 32)
    state = {f"dinov2.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {"classifier.weight": torch.ones(3, 256), "classifier.bias": torch.ones(3)}
    toys.save_raw(tmp_path, network, state)
    close(load_backbone(tmp_path)(pixels).patches.flatten(1, 2), network(pixels).last_hidden_state[:, 1:])


@pytest.mark.parametrize("kind", HUB)
def test_half_precision_is_widened_exactly(tmp_path: Path, kind: str) -> None:
    network, pixels = toys.hub_network(kind), toys.random_pixels(1, 32, 32)
    toys.hub_network(kind).half().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    backbone = load_backbone(tmp_path)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    returned = network(pixel_values=pixels)
    close(backbone(pixels).patches.flatten(1, 2), returned.last_hidden_state[:, -16:])


def test_a_folder_with_just_one_file_is_that_file(tmp_path: Path) -> None:
    torch.save(toys.meta_state(toys.DINO), tmp_path / "a.pth")
    (tmp_path / "README.md").write_text("weights")
    assert read_checkpoint(tmp_path).files == (tmp_path / "a.pth",)
    torch.save(toys.meta_state(toys.DINO), tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"just one weights file; weights found: a\.pth, b\.pth"):
        load_backbone(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty.*weights found: none"):
        load_backbone(tmp_path / "empty")
    with pytest.raises(WeightsError, match=r"absent: no such weights file"):
        load_backbone(tmp_path / "absent")


def test_settings_of_a_configuration_that_only_training_needs_change_nothing(tmp_path: Path) -> None:
    network, pixels = toys.hub_network("dinov2"), toys.random_pixels(1, 32, 32)
    network.save_pretrained(tmp_path)
    expected = load_backbone(tmp_path)(pixels).cls
    told = {
        "hidden_dropout_prob": 0.5,
        "drop_path_rate": 0.5,
        "return_dict": False,
        "output_hidden_states": True,
        "torch_dtype": "float16",
        "attn_implementation": "flash_attention_2",
        "id2label": {"0": "LABEL_0"},
        "_name_or_path": "facebook/dinov2",
        "auto_map": {"AutoModel": "modeling.Model"},
    }
    write_config(tmp_path, **told)
    assert torch.equal(load_backbone(tmp_path)(pixels).cls, expected)


# what must hold of every backbone


@pytest.mark.parametrize("name", [*META, "clip", "siglip"])
def test_features_do_not_depend_on_batch_mates(tmp_path: Path, name: str) -> None:
    pixels = toys.random_pixels(3, 24, 40)
    if name in META:
        torch.save(toys.meta_state(META[name]), tmp_path / "w.pth")
    else:
        toys.hub_network(name).save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    together, again = backbone(pixels), backbone(pixels)
    assert torch.equal(together.cls, again.cls)
    for i in (2, 0):
        alone = backbone(pixels[i : i + 1])
        close(together[i : i + 1].cls, alone.cls)
        close(together[i : i + 1].patches, alone.patches)
    # …and do depend on the picture
    assert float((together.cls[0] - together.cls[1]).abs().max()) > 0.01


@pytest.mark.parametrize("kind", HUB)
def test_every_tensor_of_a_network_has_a_name_of_its_own(kind: str) -> None:
    names = [canonical for name in toys.hub_network(kind).state_dict() for canonical in canonical_names(name)]
    assert len(names) == len(set(names))
    known = {
        "cls",
        "mask",
        "registers",
        "positions",
        "patch",
        "pre_norm",
        "blocks",
        "norm",
        "projection",
        "head",
    }
    assert {name.split(".")[0] for name in names} <= known


@pytest.mark.parametrize("name", META)
def test_every_tensor_of_metas_files_has_a_name_of_its_own(name: str) -> None:
    used = [key for key in toys.meta_state(META[name]) if not key.endswith(("periods", "bias_mask"))]
    names = [canonical for key in used for canonical in canonical_names(key)]
    assert len(names) == len(set(names)) > len(used)


@pytest.mark.parametrize("grid", [(4, 4), (5, 5), (2, 9), (11, 3), (1, 1)])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_positions_are_resampled_as_one_by_one(grid: tuple[int, int], offset: float) -> None:
    positions = torch.randn(1, 1 + 16, 6, generator=torch.Generator().manual_seed(0))
    expected = toys.bicubic_positions(positions[0], grid, 0.0 if grid == (4, 4) else offset)
    close(resample_positions(positions, grid, offset)[0], expected)


def test_positions_in_half_precision_are_resampled_in_full() -> None:
    positions = torch.randn(1, 17, 6, generator=torch.Generator().manual_seed(0)).half()
    found = resample_positions(positions, (5, 7), 0.1)
    assert found.dtype == torch.float16
    assert torch.equal(found, resample_positions(positions.float(), (5, 7), 0.1).half())


def test_resampled_positions_follow_the_weights_and_let_gradients_through(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.save(toys.meta_state(toys.DINOV2, seed), tmp_path / f"{seed}.pth")
    first, second = (load_backbone(tmp_path / f"{seed}.pth") for seed in (0, 1))
    pixels = toys.random_pixels(1, 24, 40)
    with torch.inference_mode():
        first(pixels)  # remembers the resampled positions, as tensors of inference
    expected = second(pixels).cls
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(pixels).cls, expected)
    with torch.inference_mode():
        first(toys.random_pixels(1, 40, 24))
        first(pixels)
    wanted = pixels.clone().requires_grad_()
    first(wanted).cls.square().sum().backward()
    assert wanted.grad is not None and float(wanted.grad.abs().max()) > 0


def test_a_copy_is_a_network_of_its_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.save(toys.meta_state(toys.DINOV2, seed), tmp_path / f"{seed}.pth")
    first, second = (load_backbone(tmp_path / f"{seed}.pth") for seed in (0, 1))
    pixels = toys.random_pixels(1, 24, 40)
    expected = first(pixels).cls
    copied = copy.deepcopy(first)
    assert torch.equal(copied(pixels).cls, expected)
    copied.load_state_dict(second.state_dict())
    assert torch.equal(copied(pixels).cls, second(pixels).cls)
    assert torch.equal(first(pixels).cls, expected)


@pytest.mark.parametrize("kind", ["vit", "dinov3", "clip", "siglip"])
def test_other_pixels_are_refused(kind: str) -> None:
    backbone = Backbone(toys.hub_network(kind).config)
    for shape in ((3, 32, 32), (1, 1, 32, 32), (1, 3, 0, 32)):
        with pytest.raises(InputError, match=r"pixels|multiples"):
            backbone(torch.zeros(shape))
    with pytest.raises(InputError, match=r"multiples of 8; got 33 × 32"):
        backbone(torch.zeros(1, 3, 33, 32))


def test_a_size_that_is_no_multiple_is_taken_where_the_network_was_made_for_it(tmp_path: Path) -> None:
    # SigLIP 2 So400m: 384 pixels and patches of 14, of which 27 fit
    network, pixels = toys.hub_network("siglip"), toys.random_pixels(1, 36, 36)
    network.config.image_size = 36
    toys.save_raw(tmp_path, network, network.state_dict())
    backbone = load_backbone(tmp_path)
    found = backbone(pixels)
    close(found.cls, network(pixels).pooler_output)
    close(found.patches, backbone(pixels[:, :, :32, :32]).patches)
    with pytest.raises(InputError, match=r"multiples of 8.*got 44 × 44"):
        backbone(toys.random_pixels(1, 44, 44))


def test_siglip_has_no_last_block_feature_and_needs_its_pooling(tmp_path: Path) -> None:
    toys.hub_network("siglip").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no CLS token"):
        load_backbone(tmp_path, "last-block")
    network = toys.hub_network("siglip")
    state = {name: t for name, t in network.state_dict().items() if not name.startswith("head.")}
    toys.save_raw(tmp_path, network, state)
    write_config(tmp_path, vision_use_head=False)
    with pytest.raises(InputError, match="vision_use_head"):
        load_backbone(tmp_path)


# what is refused, each with the file and what to do


def write_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


Change = Callable[[toys.State], object]


def _drop(name: str) -> Change:
    return lambda state: state.pop(name)


def _put(**tensors: Tensor) -> Change:
    return lambda state: state.update({name.replace("__", "."): t for name, t in tensors.items()})


WRONG: dict[str, tuple[toys.Toy, Change, str]] = {
    "missing": (
        toys.DINOV2,
        _drop("blocks.1.norm2.bias"),
        r"1 names are missing \(blocks\.1\.norm2\.bias\), 0 are",
    ),
    "no norm": (toys.DINOV2, _drop("norm.bias"), r"1 names are missing \(norm\.bias\)"),
    "extra": (
        toys.DINOV2,
        _put(surprise=torch.ones(3)),
        r"0 names are missing \(none\), 1 are unexpected \(surprise\)",
    ),
    "extra number": (toys.DINOV2, _put(logit_scale=torch.tensor(4.6)), r"1 are unexpected \(logit_scale\)"),
    "extra in a block": (
        toys.DINOV2,
        _put(blocks__0__extra__bias=torch.ones(128)),
        r"unexpected \(blocks\.0\.extra\.bias\)",
    ),
    "no number": (
        toys.DINOV2,
        _put(blocks__x__norm1__bias=torch.ones(128)),
        r"expected blocks 0 to 2; got blocks\.x",
    ),
    "absurd number": (
        toys.DINOV2,
        _put(blocks__99999999__norm1__bias=torch.ones(128)),
        r"expected blocks 0 to 2; got blocks\.99999999",
    ),
    "shape": (
        toys.DINOV2,
        _put(norm__weight=torch.ones(64)),
        r"another size of network.*\(64,\) instead of \(128,\)",
    ),
    "turned": (
        toys.DINOV2,
        _put(blocks__0__mlp__fc1__weight=torch.ones(128, 512)),
        r"\(128, 512\)|width|another size",
    ),
    "qkv": (
        toys.DINOV2,
        _put(blocks__0__attn__qkv__weight=torch.ones(385, 128)),
        r"385 rows; expected 3 equal parts",
    ),
    "NaN": (toys.DINOV2, _put(norm__bias=torch.full((128,), torch.nan)), r"NaN or infinite values"),
    "infinite": (toys.DINOV2, _put(mask_token=torch.full((1, 128), torch.inf)), r"NaN or infinite values"),
    "mixed types": (
        toys.DINOV2,
        _put(norm__bias=torch.ones(128).half()),
        r"one type; got .*float16.*float32",
    ),
    "positions": (toys.DINOV2, _put(pos_embed=torch.ones(1, 16, 128)), r"\(1, 16, 128\)"),
    "no patches": (
        toys.DINOV2,
        _drop("patch_embed.proj.weight"),
        r"not a vision transformer.*no patch\.weight",
    ),
    "no positions": (toys.DINOV2, _drop("pos_embed"), r"neither position embeddings nor rotary periods"),
    "two of one meaning": (
        toys.DINOV2,
        _put(layernorm__bias=torch.ones(128)),
        r"layernorm\.bias is another norm\.bias",
    ),
    "biased keys": (toys.DINOV3, _drop("blocks.0.attn.qkv.bias_mask"), r"blocks\.0\.k\.bias is not zero"),
    "other mask": (
        toys.DINOV3,
        _put(blocks__0__attn__qkv__bias_mask=torch.full((384,), torch.nan)),
        r"bias_mask.*zeros and ones",
    ),
    "shape of mask": (toys.DINOV3, _put(blocks__0__attn__qkv__bias_mask=torch.ones(3)), r"bias_mask"),
    "no registers": (toys.DINOV3, _drop("storage_tokens"), r"expected register tokens"),
    "no periods": (toys.DINOV3, _put(rope_embed__periods=torch.ones(0)), r"periods"),
    "few periods": (
        toys.DINOV3,
        _put(rope_embed__periods=torch.tensor([100 ** (i / 7) for i in range(7)])),
        r"\.pth",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_metas_files_with_one_fault_are_refused(tmp_path: Path, case: str) -> None:
    toy, change, message = WRONG[case]
    state = toys.meta_state(toy)
    change(state)
    path = tmp_path / "faulty.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_backbone(path)
    assert str(path) in str(caught.value)


def test_an_open_clip_file_without_projection_or_with_a_bias_is_refused(tmp_path: Path) -> None:
    state = toys.dreamsim_clip_state(toys.CLIP)
    torch.save(toys.open_clip_state(state) | {"visual.conv1.bias": torch.ones(128)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt: patch\.bias is not zero"):
        load_backbone(tmp_path / "a.pt")
    partial = toys.open_clip_state(state)
    partial.pop("visual.proj")
    torch.save(partial, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match=r"b\.pt.*missing \(projection\)"):
        load_backbone(tmp_path / "b.pt")


IMPOSTORS = {
    "page": (b"<!DOCTYPE html><html>Sign in</html>", "an HTML page"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n",
        "a git-lfs pointer",
    ),
    "empty": (b"", "an empty file"),
    "truncated": (None, "damaged"),
}


@pytest.mark.parametrize("case", IMPOSTORS)
def test_folders_whose_weights_are_no_weights(tmp_path: Path, case: str) -> None:
    content, message = IMPOSTORS[case]
    toys.hub_network("dinov2").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_backbone(tmp_path)
    assert str(path) in str(caught.value)


def test_other_weights_behind_the_same_configuration_are_refused(tmp_path: Path) -> None:
    toys.hub_network("dinov2 registers").save_pretrained(tmp_path)
    other = toys.hub_network("dinov2")
    other.config.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"1 are unexpected \(registers\)") as caught:
        load_backbone(tmp_path)
    assert str(tmp_path) in str(caught.value)


CONFIGS: dict[str, tuple[dict[str, Any] | str, str]] = {
    "unknown type": ({"model_type": "beit"}, r"type 'beit' are not supported; supported: vit, dinov2"),
    "remote code": (
        {"model_type": "mine", "auto_map": {"AutoModel": "modeling.Model"}},
        r"type 'mine' are not supported; it needs code of its own \(auto_map\), which identisim never runs",
    ),
    "no type": ('{"hidden_size": 128}', r"config\.json is no configuration.*model_type"),
    "no object": ("[1, 2]", r"config\.json is no configuration"),
    "no json": ("<html>", r"config\.json is no configuration"),
    "bytes": ("\x00\xff", r"config\.json is no configuration"),
    "tower without shape": ({"model_type": "clip"}, r"type clip but has no vision_config"),
    "tower of null": ({"model_type": "clip", "vision_config": None}, r"type clip but has no vision_config"),
    "tower of a list": (
        {"model_type": "siglip", "vision_config": [1]},
        r"type siglip but has no vision_config",
    ),
    "other tower": (
        {"model_type": "clip", "vision_config": {"model_type": "swin"}},
        r"vision_config .*'swin'.*expected 'clip_vision_model'",
    ),
    "heads": ({"num_attention_heads": 3}, r"\(128, 128\) instead of \(126, 128\)"),
    "zero heads": ({"num_attention_heads": 0}, r"make no network"),
    "negative depth": ({"num_hidden_layers": -1}, r"config\.json"),
    "fewer blocks": (
        {"num_hidden_layers": 1},
        r"config\.json describes 1 blocks, the weights beside it have 2",
    ),
    "more blocks": (
        {"num_hidden_layers": 10**9},
        r"config\.json describes 1000000000 blocks, the weights beside it have 2",
    ),
    "word for a number": ({"hidden_size": "big"}, r"config\.json"),
    "no activation": ({"hidden_act": "nope"}, r"make no network.*nope"),
    "no patch": ({"patch_size": 0}, r"make no network"),
    "oblong patches": ({"patch_size": [8, 4]}, r"square patches"),
    "other size": ({"image_size": 64}, r"\(1, 17, 128\) instead of \(1, 65, 128\)"),
    "SwiGLU": ({"use_swiglu_ffn": True}, r"missing \(blocks\.0\.mlp_gate"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_make_no_sense_are_refused(tmp_path: Path, case: str) -> None:
    content, message = CONFIGS[case]
    toys.hub_network("dinov2").save_pretrained(tmp_path)
    if isinstance(content, str):
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    else:
        write_config(tmp_path, **content)
    with pytest.raises(InputError, match=message) as caught:
        load_backbone(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_heads_that_divide_otherwise_are_refused(tmp_path: Path) -> None:
    toys.hub_network("clip").save_pretrained(tmp_path)
    write_config(tmp_path, num_attention_heads=3)
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_backbone(tmp_path)


def test_indices_of_shards_are_followed_only_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    toys.hub_network("dinov2").save_pretrained(folder, max_shard_size="400KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shards = sorted(set(content["weight_map"].values()))
    os.link(folder / shards[0], tmp_path / "outside.safetensors")
    for faulty, message in (
        ({"weight_map": {"norm.bias": "../outside.safetensors"}}, "names files outside its folder"),
        (
            {"weight_map": {"norm.bias": str(tmp_path / "outside.safetensors")}},
            "names files outside its folder",
        ),
        ({"weight_map": {"norm.bias": 3}}, "is no index of weights"),
        ({"weight_map": [shards[0]]}, "is no index of weights"),
        ({}, "is no index of weights"),
        ([], "is no index of weights"),
        ({"weight_map": {}}, "is no index of weights"),
        ({"weight_map": {"norm.bias": shards[0]}}, "the weights beside it have 1"),
        ({"weight_map": {"norm.bias": "absent.safetensors"}}, r"absent\.safetensors: no such weights file"),
    ):
        index.write_text(json.dumps(faulty))
        with pytest.raises(WeightsError, match=message) as caught:
            load_backbone(folder)
        assert str(folder) in str(caught.value)
    index.write_text("nothing")
    with pytest.raises(WeightsError, match="is no index of weights"):
        load_backbone(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    toys.hub_network("dinov2").save_pretrained(tmp_path, max_shard_size="400KB")
    first, second = sorted(tmp_path.glob("model-*.safetensors"))[:2]
    state = load_file(second)
    state |= dict(list(load_file(first).items())[:1])
    save_file(state, second)
    with pytest.raises(WeightsError, match=rf"{second.name}.* again"):
        load_backbone(tmp_path)


def test_a_folder_with_a_configuration_and_no_weights(tmp_path: Path) -> None:
    toys.hub_network("dinov2").config.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_backbone(tmp_path)


def test_a_backbone_of_another_type_is_refused() -> None:
    from transformers import BertConfig

    with pytest.raises(InputError, match=f"no backbone of type 'bert'; known are {', '.join(KINDS)}"):
        Backbone(BertConfig())


def test_what_was_not_asked_for_is_never_changed(tmp_path: Path) -> None:
    """A tensor in the vocabulary keeps its values: fused ones are split in order q, k, v."""
    state = toys.meta_state(toys.DINOV2)
    renamed = canonical_state(state)
    qkv = torch.cat([renamed[f"blocks.0.{part}.weight"] for part in "qkv"])
    assert torch.equal(qkv, state["blocks.0.attn.qkv.weight"])
    masked = toys.meta_state(replace(toys.DINOV3, depth=1))
    renamed = canonical_state({name: t for name, t in masked.items() if "rope" not in name})
    assert not renamed["blocks.0.k.bias"].any() and renamed["blocks.0.q.bias"].all()


def test_a_feature_is_one_of_two() -> None:
    features: tuple[Feature, ...] = ("final", "last-block")
    assert {load.feature for load in (Backbone(toys.hub_network("vit").config, f) for f in features)} == set(
        features
    )
