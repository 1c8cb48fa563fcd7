"""Random vision transformers of toy size in the layouts of the public files, and their forward pass written by hand.

The hand computation knows neither transformers nor identisim: it takes a state dict in the names of Meta's DINO files
and goes token by token and head by head, in float64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
Scaling = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Scaling = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI: Scaling = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF: Scaling = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Toy:
    """Shape and kind of a toy, as in the configurations of the published networks.

    grid: patches a side that the position embeddings are for. stride: pixels from patch to patch, None = patch.
    gate: "" for two layers, "w12" for DINOv2's fused SwiGLU, "w123" for DINOv3's. rotary: DINOv3's positions.
    """

    width: int = 128
    heads: int = 2
    depth: int = 2
    patch: int = 8
    grid: int = 4
    stride: int | None = None
    hidden: int = 512
    registers: int = 0
    scales: bool = False
    gate: str = ""
    rotary: bool = False
    qkv_bias: bool = True
    eps: float = 1e-6
    activation: str = "gelu"

    @property
    def side(self) -> int:
        """Pixels a side of the pictures it was made for."""
        return self.grid * self.patch


DINO = Toy()
DINOV2 = Toy(scales=True)
DINOV2_GIANT = Toy(scales=True, gate="w12", hidden=344)
"""The hidden width of SwiGLU follows from the width: two thirds of four times it, in steps of eight."""
DINOV2_REGISTERS = Toy(scales=True, registers=4)
DINOV3 = Toy(scales=True, registers=4, rotary=True, eps=1e-5, hidden=256)
DINOV3_PLUS = Toy(scales=True, registers=4, rotary=True, eps=1e-5, hidden=384, gate="w123")
DINOV3_7B = Toy(scales=True, registers=4, rotary=True, eps=1e-5, hidden=384, gate="w123", qkv_bias=False)
OPEN_CLIP = Toy(eps=1e-5)
CLIP = Toy(eps=1e-5, activation="quick_gelu")
PROJECTED = 96
"""Width of CLIP's embedding."""


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    """Random weights: gains near 1, everything else, biases too, large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        fan = math.prod(shape[1:]) if len(shape) > 1 and shape[0] != 1 else 25
        is_gain = ("norm" in name and name.endswith("weight")) or name.endswith("gamma")
        state[name] = 1 + 0.2 * noise if is_gain else noise / fan**0.5
    return state


def meta_state(toy: Toy, seed: int = 0) -> State:
    """State dict as in Meta's `.pth` files of DINO, DINOv2 and DINOv3."""
    width, hidden = toy.width, toy.hidden
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width)}
    if toy.scales:
        shapes["mask_token"] = (1, width)
    if not toy.rotary:
        shapes["pos_embed"] = (1, 1 + toy.grid**2, width)
    if toy.registers:
        shapes["storage_tokens" if toy.rotary else "register_tokens"] = (1, toy.registers, width)
    shapes |= {"patch_embed.proj.weight": (width, 3, toy.patch, toy.patch), "patch_embed.proj.bias": (width,)}
    for n in range(toy.depth):
        block: dict[str, tuple[int, ...]] = {"norm1.weight": (width,), "norm1.bias": (width,)}
        block |= {"attn.qkv.weight": (3 * width, width), "attn.proj.weight": (width, width)}
        block["attn.proj.bias"] = (width,)
        if toy.qkv_bias:
            block["attn.qkv.bias"] = (3 * width,)
        block |= {"norm2.weight": (width,), "norm2.bias": (width,)}
        inner = {
            "": {"fc1": (hidden, width), "fc2": (width, hidden)},
            "w12": {"w12": (2 * hidden, width), "w3": (width, hidden)},
            "w123": {"w1": (hidden, width), "w2": (hidden, width), "w3": (width, hidden)},
        }[toy.gate]
        for name, shape in inner.items():
            block |= {f"mlp.{name}.weight": shape, f"mlp.{name}.bias": shape[:1]}
        if toy.scales:
            block |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in block.items()}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    state = random_tensors(shapes, seed)
    if toy.rotary:
        quarter = width // toy.heads // 4
        state["rope_embed.periods"] = torch.tensor([100 ** (i / quarter) for i in range(quarter)])
        for n in range(toy.depth if toy.qkv_bias else 0):
            mask = torch.ones(3 * width)
            mask[width : 2 * width] = 0
            state[f"blocks.{n}.attn.qkv.bias_mask"] = mask
    return state


def dreamsim_clip_state(toy: Toy, seed: int = 0) -> State:
    """State dict as in DreamSim's `clip_vitb16_pretrain.pth.tar`: CLIP in DINO's names, `proj` (D, E) beside."""
    state = meta_state(toy, seed)
    state["patch_embed.proj.bias"].zero_()
    shapes = {"pos_drop.weight": (toy.width,), "pos_drop.bias": (toy.width,), "proj": (toy.width, PROJECTED)}
    extra = random_tensors(shapes, seed + 1)
    extra["pos_drop.weight"] += 1
    return state | extra


OPEN_CLIP_BLOCK = {
    "norm1.weight": "ln_1.weight",
    "norm1.bias": "ln_1.bias",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj.weight": "attn.out_proj.weight",
    "attn.proj.bias": "attn.out_proj.bias",
    "norm2.weight": "ln_2.weight",
    "norm2.bias": "ln_2.bias",
    "mlp.fc1.weight": "mlp.c_fc.weight",
    "mlp.fc1.bias": "mlp.c_fc.bias",
    "mlp.fc2.weight": "mlp.c_proj.weight",
    "mlp.fc2.bias": "mlp.c_proj.bias",
}


def open_clip_state(named_as_dino: State, prefix: str = "visual.") -> State:
    """The image half of an open_clip state dict, from the same network in DINO's names."""
    given = dict(named_as_dino)
    assert not given.pop("patch_embed.proj.bias").any()
    state = {
        "class_embedding": given.pop("cls_token").flatten(),
        "positional_embedding": given.pop("pos_embed")[0],
        "proj": given.pop("proj"),
        "conv1.weight": given.pop("patch_embed.proj.weight"),
        "ln_pre.weight": given.pop("pos_drop.weight"),
        "ln_pre.bias": given.pop("pos_drop.bias"),
        "ln_post.weight": given.pop("norm.weight"),
        "ln_post.bias": given.pop("norm.bias"),
    }
    for name, tensor in given.items():
        _, number, rest = name.split(".", 2)
        state[f"transformer.resblocks.{number}.{OPEN_CLIP_BLOCK[rest]}"] = tensor
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def text_state() -> State:
    """Names, in an open_clip state dict, of what is not the image half."""
    shapes = {
        "positional_embedding": (7, 16),
        "text_projection": (16, 16),
        "logit_scale": (),
        "token_embedding.weight": (9, 16),
        "ln_final.weight": (16,),
        "ln_final.bias": (16,),
        "transformer.resblocks.0.attn.in_proj_weight": (48, 16),
        "transformer.resblocks.0.ln_1.weight": (16,),
        "attn_mask": (7, 7),
    }
    return random_tensors(shapes, 9)


def last_block(state: State, toy: Toy, pixels: Tensor, positions: Tensor | None = None) -> Tensor:
    """Tokens of one picture (3, H, W) behind the last block: (1 + registers + patches, D), float64.

    positions: (1 + patches, D) for another grid than that of the toy.
    """
    s = {name: tensor.double() for name, tensor in state.items()}
    patches, (rows, columns) = _patches(s, toy, pixels.double())
    x = torch.cat([s["cls_token"][0], patches])
    if not toy.rotary:
        x = x + (s["pos_embed"][0] if positions is None else positions.double())
    registers = s.get("register_tokens", s.get("storage_tokens"))
    if registers is not None:
        x = torch.cat([x[:1], registers[0], x[1:]])
    if "pos_drop.weight" in s:
        x = _norm(x, s, "pos_drop", toy.eps)
    turns = _turns(s["rope_embed.periods"], rows, columns) if toy.rotary else None
    for n in range(toy.depth):
        block = {k.removeprefix(f"blocks.{n}."): t for k, t in s.items() if k.startswith(f"blocks.{n}.")}
        mixed = _attention(_norm(x, block, "norm1", toy.eps), block, toy, turns)
        x = x + mixed * block.get("ls1.gamma", torch.ones(1))
        inner = _mlp(_norm(x, block, "norm2", toy.eps), block, toy)
        x = x + inner * block.get("ls2.gamma", torch.ones(1))
    return x


def final_norm(state: State, toy: Toy, tokens: Tensor) -> Tensor:
    """The norm behind the blocks."""
    return _norm(tokens, {name: tensor.double() for name, tensor in state.items()}, "norm", toy.eps)


def _patches(s: State, toy: Toy, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    stride = toy.stride or toy.patch
    rows, columns = ((length - toy.patch) // stride + 1 for length in pixels.shape[1:])
    kernel, bias = s["patch_embed.proj.weight"], s["patch_embed.proj.bias"]
    vectors = []
    for row, column in product(range(rows), range(columns)):
        y, x = row * stride, column * stride
        square = pixels[:, y : y + toy.patch, x : x + toy.patch]
        vectors.append((kernel * square).sum((1, 2, 3)) + bias)
    return torch.stack(vectors), (rows, columns)


def _norm(x: Tensor, s: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * s[f"{name}.weight"]
        + s[f"{name}.bias"]
    )


def _attention(x: Tensor, block: State, toy: Toy, turns: Tensor | None) -> Tensor:
    bias = block.get("attn.qkv.bias", torch.zeros(1))
    if "attn.qkv.bias_mask" in block:
        bias = bias * block["attn.qkv.bias_mask"]
    q, k, v = (x @ block["attn.qkv.weight"].T + bias).split(toy.width, 1)
    each, mixed = toy.width // toy.heads, []
    for head in range(toy.heads):
        part = slice(head * each, (head + 1) * each)
        query, key = q[:, part], k[:, part]
        if turns is not None:
            query, key = _turned(query, turns), _turned(key, turns)
        mixed.append((query @ key.T / each**0.5).softmax(1) @ v[:, part])
    return torch.cat(mixed, 1) @ block["attn.proj.weight"].T + block["attn.proj.bias"]


def _turns(periods: Tensor, rows: int, columns: int) -> Tensor:
    """Angles of every patch: (patches, D / 2), first those of its row, then those of its column."""
    angles = []
    for row, column in product(range(rows), range(columns)):
        y, x = 2 * (row + 0.5) / rows - 1, 2 * (column + 0.5) / columns - 1
        angles.append(torch.cat([2 * math.pi * y / periods, 2 * math.pi * x / periods]))
    return torch.stack(angles)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Turn pair (i, i + D / 2) of every patch by its angle i; CLS and registers stay."""
    before, patches = x[: len(x) - len(turns)], x[len(x) - len(turns) :]
    first, second = patches.chunk(2, 1)
    cos, sin = turns.cos(), turns.sin()
    return torch.cat([before, torch.cat([first * cos - second * sin, second * cos + first * sin], 1)])


def _mlp(x: Tensor, block: State, toy: Toy) -> Tensor:
    def linear(name: str, inputs: Tensor) -> Tensor:
        return inputs @ block[f"mlp.{name}.weight"].T + block[f"mlp.{name}.bias"]

    if toy.gate == "w12":
        gate, value = linear("w12", x).chunk(2, 1)
        return linear("w3", gate * gate.sigmoid() * value)
    if toy.gate == "w123":
        gate = linear("w1", x)
        return linear("w3", gate * gate.sigmoid() * linear("w2", x))
    y = linear("fc1", x)
    if toy.activation == "quick_gelu":
        return linear("fc2", y * (1.702 * y).sigmoid())
    return linear("fc2", y * 0.5 * (1 + torch.erf(y / 2**0.5)))


def bicubic_positions(positions: Tensor, grid: tuple[int, int], offset: float = 0.0) -> Tensor:
    """Position embeddings (1 + M², D) on another grid, resampled one by one with the cubic kernel of a = −0.75."""
    side = math.isqrt(len(positions) - 1)
    source = positions[1:].double().reshape(side, side, -1)
    rows, columns = (_taps(length, side, (length + offset) / side) for length in grid)
    out = [
        sum(
            wy * wx * source[min(max(y, 0), side - 1), min(max(x, 0), side - 1)]
            for (y, wy), (x, wx) in product(rows[i], columns[j])
        )
        for i, j in product(range(grid[0]), range(grid[1]))
    ]
    return torch.cat([positions[:1].double(), torch.stack(out)])  # type: ignore[arg-type]


def _taps(length: int, side: int, scale: float) -> list[list[tuple[int, float]]]:
    """For every output place the four source places and their weights."""
    taps = []
    for place in range(length):
        centre = (place + 0.5) / scale - 0.5
        first = math.floor(centre) - 1
        taps.append([(first + i, _cubic(abs(first + i - centre), -0.75)) for i in range(4)])
    return taps


def _cubic(x: float, a: float) -> float:
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def antialiased_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """The same with a kernel of a = −0.5 that is as wide as an output place, as for DINOv2 with registers."""
    side = math.isqrt(len(positions) - 1)
    source = positions[1:].double().reshape(side, side, -1)
    rows, columns = (_widened(length, side) for length in grid)
    resampled = torch.einsum("ij,jkd,lk->ild", rows, source, columns)
    return torch.cat([positions[:1].double(), resampled.flatten(0, 1)])


def _widened(length: int, side: int) -> Tensor:
    matrix = torch.zeros(length, side, dtype=torch.float64)
    widening = max(side / length, 1.0)
    for place in range(length):
        centre = (place + 0.5) * side / length
        for source in range(side):
            matrix[place, source] = _cubic(abs(source + 0.5 - centre) / widening, -0.5)
    return matrix / matrix.sum(1, keepdim=True)


def random_pixels(batch: int, height: int, width: int, seed: int = 3) -> Tensor:
    """Normalised pixels (B, 3, H, W)."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def squashed(image: np.ndarray, side: int, scaling: Scaling, kernel: str = "BICUBIC") -> Tensor:
    """Pillow's filter, columns first as Pillow did until 12, then (x − mean) / std: (3, side, side), float64."""
    chosen = Image.Resampling[kernel]
    columns = Image.fromarray(image).resize((side, image.shape[0]), chosen)
    resized = np.asarray(columns.resize((side, side), chosen))
    mean, std = (np.array(values) for values in scaling)
    return torch.from_numpy(((resized / 255 - mean) / std).transpose(2, 0, 1))


def picture(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_adapter(folder: Path, layers: Mapping[str, tuple[Tensor, Tensor]], **settings: object) -> Path:
    """A LoRA adapter as PEFT writes it. layers: path of a layer in the adapted network -> A and B."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"base_model.model.{layer}.lora_{side}.weight": tensor.contiguous()
        for layer, pair in layers.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(PEFT_CONFIG | settings, indent=2))
    return folder


PEFT_CONFIG: dict[str, object] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": {"base_model_class": "PerceptualModel", "parent_library": "id_sim.model"},
    "base_model_name_or_path": None,
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 32,
    "lora_bias": False,
    "lora_dropout": 0.2,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 4,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["qkv"],
    "target_parameters": None,
    "task_type": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}
"""adapter_config.json with every setting that PEFT 0.21.2 writes."""


def random_pair(outputs: int, inputs: int, rank: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A (r, I) and B (O, r) of an adapted layer."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inputs, generator=generator) / inputs**0.5
    return a, torch.randn(outputs, rank, generator=generator) / rank**0.5


SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def hub_network(kind: str, seed: int = 0, **changes: int) -> Any:
    """A network of transformers with random weights, everywhere: no gain is 1 and no bias 0. changes: of its size."""
    import transformers as hub

    sizes: dict[str, Any] = {name: changes.pop(name, size) for name, size in SIZES.items()}
    inner: dict[str, Any] = {"intermediate_size": 256} | changes
    network = {
        "vit": lambda: hub.ViTModel(hub.ViTConfig(**sizes, **inner), add_pooling_layer=False),
        "dinov2": lambda: hub.Dinov2Model(hub.Dinov2Config(**sizes)),
        "dinov2 SwiGLU": lambda: hub.Dinov2Model(hub.Dinov2Config(**sizes, use_swiglu_ffn=True)),
        "dinov2 registers": lambda: hub.Dinov2WithRegistersModel(
            hub.Dinov2WithRegistersConfig(**sizes, num_register_tokens=4)
        ),
        "dinov3": lambda: hub.DINOv3ViTModel(hub.DINOv3ViTConfig(**sizes, **inner, num_register_tokens=4)),
        "dinov3 gated": lambda: hub.DINOv3ViTModel(
            hub.DINOv3ViTConfig(
                **sizes, **inner, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu"
            )
        ),
        "dinov3 7B": lambda: hub.DINOv3ViTModel(
            hub.DINOv3ViTConfig(
                **sizes,
                **inner,
                num_register_tokens=4,
                use_gated_mlp=True,
                hidden_act="silu",
                query_bias=False,
                value_bias=False,
            )
        ),
        "clip": lambda: hub.CLIPVisionModelWithProjection(
            hub.CLIPVisionConfig(**sizes, **inner, projection_dim=PROJECTED)
        ),
        "siglip": lambda: hub.SiglipVisionModel(hub.SiglipVisionConfig(**sizes, **inner)),
        "whole clip": lambda: hub.CLIPModel(
            hub.CLIPConfig(vision_config=sizes | inner, text_config=TEXT, projection_dim=PROJECTED)
        ),
        "whole siglip": lambda: hub.SiglipModel(
            hub.SiglipConfig(vision_config=sizes | inner, text_config=TEXT)
        ),
    }[kind]()
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    network.load_state_dict(random_tensors(shapes, seed), strict=True)
    return network.eval()


TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "bos_token_id": 48,
    "eos_token_id": 49,
}


def save_raw(folder: Path, network: Any, state: State) -> Path:
    """A Hugging Face folder whose model.safetensors holds exactly these tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    network.config.save_pretrained(folder)
    content = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def dinov3_in_hub_names(state: State, depth: int) -> State:
    """A file of Meta's DINOv3 as it lies on the hub: qkv split, no masked biases, no periods."""
    given = {name: tensor for name, tensor in state.items() if not name.endswith(("bias_mask", "periods"))}
    names = {
        "cls_token": "embeddings.cls_token",
        "storage_tokens": "embeddings.register_tokens",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
        "norm.weight": "norm.weight",
        "norm.bias": "norm.bias",
    }
    found = {names[name]: given.pop(name) for name in names}
    found["embeddings.mask_token"] = given.pop("mask_token")[None]
    inner = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.up_proj",
        "mlp.fc2": "mlp.down_proj",
    }
    for n in range(depth):
        for i in (1, 2):
            found[f"layer.{n}.layer_scale{i}.lambda1"] = given.pop(f"blocks.{n}.ls{i}.gamma")
        for part in ("weight", "bias"):
            q, k, v = given.pop(f"blocks.{n}.attn.qkv.{part}").chunk(3)
            found[f"layer.{n}.attention.q_proj.{part}"], found[f"layer.{n}.attention.v_proj.{part}"] = q, v
            if part == "weight":
                found[f"layer.{n}.attention.k_proj.weight"] = k
            for theirs, hub in inner.items():
                found[f"layer.{n}.{hub}.{part}"] = given.pop(f"blocks.{n}.{theirs}.{part}")
    assert not given
    return found
