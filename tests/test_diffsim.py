"""DiffSim against the whole networks of diffusers and attention in numpy; toy sizes, random, in the public layout."""

from __future__ import annotations

import json
import string
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from identisim.errors import InputError
from identisim.metrics.diffsim import CARDS, FILES, build_diffsim, squash
from identisim.models.diffsim import SEED, TIMESTEP, load_diffsim, signal_share
from identisim.models.weights import WeightsError

SIDE = 128
LETTERS = list(string.ascii_lowercase)
VOCABULARY = {
    token: i
    for i, token in enumerate(
        [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    )
}


def picture(seed: int, height: int = 80, width: int = 70) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (8, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@dataclass
class Toy:
    """The networks as they were before they were saved, and where they lie."""

    folder: Path
    vae: Any
    unet: Any
    text: Any


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("stable-diffusion-v1-5")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=12,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_act="quick_gelu",
            bos_token_id=0,
            eos_token_id=2,
        )
    )
    with torch.no_grad():
        # random networks hardly tell pictures apart; these do
        vae.quant_conv.weight *= 20
        layer = unet.up_blocks[1].attentions[-1].transformer_blocks[-1].attn1
        for projection in (layer.to_q, layer.to_k):
            projection.weight *= 20
    networks = Toy(folder, vae.eval(), unet.eval(), text.eval())
    for network in (vae, unet, text):
        network.half().float()  # what half precision rounds away is gone before the tests
    save_public(networks)
    return networks


def save_public(toy: Toy) -> None:
    """The files of the public repository: names of the tensors and of the files."""
    for part, network, name in (
        ("unet", toy.unet, "diffusion_pytorch_model"),
        ("vae", toy.vae, "diffusion_pytorch_model"),
        ("text_encoder", toy.text, "model"),
    ):
        folder = toy.folder / part
        folder.mkdir()
        config = network.config
        (folder / "config.json").write_text(
            config.to_json_string() if part == "text_encoder" else json.dumps(dict(config))
        )
        state = {key: tensor.half().contiguous() for key, tensor in network.state_dict().items()}
        if part == "vae":
            state = {old_name(key): tensor for key, tensor in state.items()}
        if part == "text_encoder":
            state = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in state.items()}
            state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(state, folder / f"{name}.fp16.safetensors", metadata={"format": "pt"})
    save_tokenizer(toy.folder / "tokenizer")


def old_name(name: str) -> str:
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        if ".attentions.0." in name:
            name = name.replace(f".{new}.", f".{old}.")
    return name


def save_tokenizer(folder: Path) -> None:
    folder.mkdir()
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(ends | {"pad_token": "<|endoftext|>"}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            ends
            | {
                "add_prefix_space": False,
                "do_lower_case": True,
                "errors": "replace",
                "model_max_length": 77,
                "pad_token": "<|endoftext|>",
                "tokenizer_class": "CLIPTokenizer",
            }
        )
    )


def prompt_ids(prompt: str) -> list[int]:
    """Letters of the words by hand; the toy vocabulary merges nothing."""
    letters = [
        VOCABULARY[letter if i < len(word) - 1 else f"{letter}</w>"]
        for word in prompt.lower().split()
        for i, letter in enumerate(word)
    ]
    end = VOCABULARY["<|endoftext|>"]
    ids = [VOCABULARY["<|startoftext|>"], *letters, end]
    return ids + [end] * (77 - len(ids))


def heads_by_hand(toy: Toy, image: np.ndarray) -> list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Queries, keys and values of each prompt and head, by the whole networks and the scheduler of the authors."""
    from diffusers import PNDMScheduler

    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(1000)
    step = scheduler.timesteps[600]
    pixels = torch.from_numpy(np.array(squash(image, SIDE))).permute(2, 0, 1)[None].float() / 255
    generator = torch.Generator().manual_seed(SEED)
    inputs: list[Tensor] = []
    attention = toy.unet.up_blocks[1:][0].attentions[-1].transformer_blocks[-1].attn1
    hook = attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        latents = toy.vae.encode((pixels - 0.5) / 0.5).latent_dist.sample(generator=generator) * 0.18215
        noise = torch.randn(latents.shape, generator=generator)
        noised = scheduler.add_noise(latents, noise, step.reshape(1))
        ids = torch.tensor([prompt_ids(""), prompt_ids("High quality image")])
        states = toy.text(input_ids=ids).last_hidden_state
        toy.unet(torch.cat([noised] * 2), step, encoder_hidden_states=states)
    hook.remove()
    weights = [getattr(attention, part).weight.detach().double().numpy() for part in ("to_q", "to_k", "to_v")]
    found = []
    for tokens in inputs[0].double().numpy():
        projected = [np.split(tokens @ weight.T, attention.heads, axis=1) for weight in weights]
        found.append(list(zip(*projected, strict=True)))
    return found


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    weights = np.exp(q @ k.T / q.shape[1] ** 0.5)
    return weights / weights.sum(1, keepdims=True) @ v


def similarity_by_hand(toy: Toy, a: np.ndarray, b: np.ndarray) -> float:
    both = heads_by_hand(toy, a), heads_by_hand(toy, b)
    cosines = []
    for one, other in (both, both[::-1]):
        there, own = [], []
        for heads_one, heads_other in zip(one, other, strict=True):
            for (q, k, v), (_, other_k, other_v) in zip(heads_one, heads_other, strict=True):
                there.append(attended(q, other_k, other_v).ravel())
                own.append(attended(q, k, v).ravel())
        x, y = np.concatenate(there), np.concatenate(own)
        cosines.append(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    return float(np.mean(cosines))


def test_score_is_that_of_the_whole_networks(toy: Toy) -> None:
    metric = build_diffsim("cpu", (toy.folder,), size=SIDE)
    a, b, c = picture(1), picture(2), 255 - picture(1, 64, 64)
    expected = [similarity_by_hand(toy, a, b), similarity_by_hand(toy, a, c)]
    found = metric.similarity([a, a], [b, c])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 0.001 and (found < 0.99).all()


def test_scores_are_symmetric_deterministic_and_one_for_equal_pictures(toy: Toy) -> None:
    pictures = [picture(1), picture(2), picture(3)]
    first, second = (build_diffsim("cpu", (toy.folder,), size=SIDE) for _ in range(2))
    matrix = first.similarity_matrix(pictures, list(pictures))
    assert (np.diag(matrix) == 1).all()
    np.testing.assert_array_equal(matrix, matrix.T)
    torch.manual_seed(5)  # the noise comes from a generator of its own
    np.testing.assert_array_equal(second.similarity_matrix(pictures, list(pictures)), matrix)
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != build_diffsim("cpu", (toy.folder,), size=64).fingerprint


def test_features_have_the_shapes_that_are_stated(toy: Toy) -> None:
    net = load_diffsim(toy.folder)
    with torch.inference_mode():
        features = net(torch.zeros(1, 3, 128, 64))
    assert {tuple(part.shape) for part in features} == {(2, 2, 4 * 2, 8)}
    assert all(bool(part.isfinite().all()) for part in features)


def test_step_and_noise_are_those_of_the_scheduler() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    scheduler.set_timesteps(1000)
    assert int(scheduler.timesteps[600]) == TIMESTEP
    for step in (0, TIMESTEP, 999):
        assert signal_share(step) == pytest.approx(float(scheduler.alphas_cumprod[step]), rel=1e-4)


def copied(toy: Toy, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(toy.folder, folder))


def test_an_autoencoder_with_the_new_names_is_the_same(toy: Toy, tmp_path: Path) -> None:
    folder = copied(toy, tmp_path / "new")
    state = {name: tensor.half().contiguous() for name, tensor in toy.vae.state_dict().items()}
    assert any(".to_out.0." in name for name in state)
    save_file(state, folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.inference_mode():
        a, b = (load_diffsim(one)(pixels) for one in (toy.folder, folder))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_other_weights_are_refused(toy: Toy, tmp_path: Path, part: str) -> None:
    folder = copied(toy, tmp_path / "broken")
    path = next((folder / part).glob("*.safetensors"))
    state = load_file(path)
    name = next(key for key in state if key.endswith("weight"))
    for message, wrong in (
        ("1 names are missing", {key: tensor for key, tensor in state.items() if key != name}),
        ("0 names are missing .* 1 are unexpected", state | {"stranger": torch.ones(1)}),
        ("another type", state | {name: state[name].float()}),
    ):
        save_file(wrong, path)
        with pytest.raises(WeightsError, match=message):
            build_diffsim("cpu", (folder,), size=SIDE)
    (folder / part / "config.json").write_text('["no", "object"]')
    with pytest.raises(WeightsError, match=rf"{part}.config\.json does not describe a network"):
        build_diffsim("cpu", (folder,), size=SIDE)
    path.unlink()
    with pytest.raises(InputError, match="no such weights file"):
        build_diffsim("cpu", (folder,), size=SIDE)


def test_other_sizes_are_refused(toy: Toy) -> None:
    for size in (0, 100):
        with pytest.raises(InputError, match=f"a multiple of 64 pixels; got {size}"):
            build_diffsim("cpu", (toy.folder,), size=size)


def test_without_the_extra_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"pip install 'identisim\[diffusion\]'"):
        build_diffsim("cpu", (tmp_path,))


def test_squashing_is_pillows_lanczos() -> None:
    image = picture(3, 300, 200)
    at_once = Image.fromarray(image).resize((96, 96), Image.Resampling.LANCZOS)
    difference = np.abs(np.asarray(squash(image, 96), int) - np.asarray(at_once, int))
    assert difference.max() <= 1


def test_card_lists_the_files_of_the_repository() -> None:
    (card,) = CARDS
    (source,) = card.sources
    assert {file.name for file in source.files} == set(FILES)
    assert all(file.url.startswith("https://huggingface.co/stable-diffusion-v1-5/") for file in source.files)
    assert card.extra == "diffusion" and not card.gated
