"""DiffSim: aligned self-attention inside the U-Net of Stable Diffusion 1.5 (Song et al., ICCV 2025).

A picture is brought to the latent space, noised to one step of the diffusion, and given to the U-Net; one
self-attention layer yields queries, keys and values. Two pictures are alike when the queries of the one find in the
other what they find at home.

Shapes: N places of the layer, d numbers of a head; the 2 in front are the empty prompt and the neutral one.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from identisim.models.weights import WeightsError, load_into, load_weights

UP_BLOCK: Final = 1
"""The first block with attention on the way up (`--target_block up_blocks --target_layer 0` of the authors)."""

TIMESTEP: Final = 401
"""Of 1000. The authors take entry 600 of the descending steps of their scheduler (PNDM), which is this one."""

BETAS: Final = (0.00085, 0.012)
"""Noise of the first and the last step of Stable Diffusion 1.5, between which the square roots grow evenly."""

PROMPTS: Final = ("", "High quality image")
"""The second is the authors' default; their scripts for single benchmarks name the category of the object instead."""

SEED: Final = 2334

WEIGHTS: Final = "diffusion_pytorch_model.fp16.safetensors"
TEXT_WEIGHTS: Final = "model.fp16.safetensors"

OLD_NAMES: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the attention in the published autoencoder -> those of diffusers today."""

_OLD = re.compile(rf"(\.attentions\.\d+\.)({'|'.join(OLD_NAMES)})\.")


class DiffSimFeatures(NamedTuple):
    """What the layer makes of one picture: (2, heads, N, d) each. own: what its queries find in itself."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    own: Tensor


class DiffSimNet(nn.Module):
    """Pixels of one picture -> `DiffSimFeatures`.

    vae, unet: `AutoencoderKL` and `UNet2DConditionModel` of diffusers, whose parts behind the layer are dropped.
    contexts: (2, T, D), the text states of the prompts.
    """

    def __init__(self, vae: Any, unet: Any, contexts: Tensor) -> None:
        super().__init__()
        self.scale = float(vae.config.scaling_factor)
        vae.decoder, vae.post_quant_conv = nn.Identity(), nn.Identity()
        self.vae = vae
        self.layer = unet.up_blocks[UP_BLOCK].attentions[-1].transformer_blocks[-1].attn1
        unet.up_blocks = unet.up_blocks[: UP_BLOCK + 1]
        unet.conv_norm_out, unet.conv_out = None, nn.Identity()
        self.unet = unet
        self.register_buffer("contexts", contexts)

    def forward(self, pixels: Tensor) -> DiffSimFeatures:
        """Features of one picture (1, 3, S, S) RGB in [−1, 1], S a multiple of 64.

        Every picture gets the same noise, so that equal pictures get equal features.
        """
        generator = torch.Generator().manual_seed(SEED)
        posterior = self.vae.encode(pixels).latent_dist
        latents = self.scale * (posterior.mean + posterior.std * _noise(posterior.mean, generator))
        share = signal_share(TIMESTEP)
        noised = share**0.5 * latents + (1 - share) ** 0.5 * _noise(latents, generator)
        return self._features(self._attended(noised))

    def _attended(self, latents: Tensor) -> Tensor:
        """What enters the layer: (2, N, D)."""
        seen: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.unet(latents.expand(2, -1, -1, -1), TIMESTEP, encoder_hidden_states=self.contexts)
        finally:
            hook.remove()
        return seen[0]

    def _features(self, tokens: Tensor) -> DiffSimFeatures:
        projections = (self.layer.to_q, self.layer.to_k, self.layer.to_v)
        queries, keys, values = (
            project(tokens).unflatten(2, (self.layer.heads, -1)).transpose(1, 2) for project in projections
        )
        own = F.scaled_dot_product_attention(queries, keys, values)
        return DiffSimFeatures(queries, keys, values, own)


def aligned_similarity(a: DiffSimFeatures, b: DiffSimFeatures) -> float:
    """Mean of two cosines, in [−1, 1]: what a finds in b against what it finds in itself, and the other way round."""
    return (_one_way(a, b) + _one_way(b, a)) / 2


def _one_way(seeker: DiffSimFeatures, found: DiffSimFeatures) -> float:
    there = F.scaled_dot_product_attention(seeker.queries, found.keys, found.values)
    cosine = F.cosine_similarity(there.flatten().double(), seeker.own.flatten().double(), dim=0)
    return float(cosine.clamp(-1, 1))


def signal_share(timestep: int) -> float:
    """Share of the squared signal that the noise of Stable Diffusion 1.5 leaves at a step, in (0, 1)."""
    first, last = BETAS
    betas = torch.linspace(first**0.5, last**0.5, 1000, dtype=torch.float64) ** 2
    return float((1 - betas).cumprod(0)[timestep])


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    # drawn on the CPU, so that every device gets the same
    return torch.randn(like.shape, generator=generator).to(like)


def load_diffsim(folder: Path) -> DiffSimNet:
    """Read Stable Diffusion 1.5 from its folder in the layout of diffusers; in evaluation mode and frozen.

    Weights are in half precision and computed in float32. The decoder, the upper half of the U-Net and, once the
    prompts are encoded, the text encoder are dropped. Raises WeightsError for anything else than these networks.
    """
    diffusers: Any = importlib.import_module("diffusers")
    vae = _built(diffusers.AutoencoderKL.from_config, folder / "vae")
    unet = _built(diffusers.UNet2DConditionModel.from_config, folder / "unet")
    state = load_weights(folder / "vae" / WEIGHTS)
    renamed = {
        _OLD.sub(lambda found: f"{found[1]}{OLD_NAMES[found[2]]}.", name): tensor
        for name, tensor in state.items()
    }
    load_into(vae, renamed, dtype=torch.float16)
    load_into(unet, load_weights(folder / "unet" / WEIGHTS), dtype=torch.float16)
    return DiffSimNet(vae, unet, _encode_prompts(folder)).eval().requires_grad_(False)


def _encode_prompts(folder: Path) -> Tensor:
    """Text states of `PROMPTS`: (2, 77, 768)."""
    transformers: Any = importlib.import_module("transformers")
    encoder = _built(
        lambda config: transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config)),
        folder / "text_encoder",
    )
    # transformers calls the same tensors with or without this prefix, by its version
    own = "text_model." if next(iter(encoder.state_dict())).startswith("text_model.") else ""
    state = load_weights(folder / "text_encoder" / TEXT_WEIGHTS)
    renamed = {own + name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    renamed.pop(f"{own}embeddings.position_ids", None)
    load_into(encoder, renamed, dtype=torch.float16)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    length = encoder.config.max_position_embeddings
    tokens = tokenizer(
        list(PROMPTS), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    with torch.inference_mode():
        states: Tensor = encoder.eval()(input_ids=tokens.input_ids).last_hidden_state
    return states.clone()


def _built(build: Callable[[dict[str, Any]], Any], folder: Path) -> Any:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"expected a JSON object, got a {type(config).__name__}")
        return build(config)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} does not describe a network of Stable Diffusion 1.5 ({error}); download it again"
        ) from error
