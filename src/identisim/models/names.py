"""One vocabulary for the tensors of vision transformers, whoever named them.

Published files and the modules of `transformers` call the same tensor by different names, and those of the modules
change between its releases. `canonical_state` brings the names of Hugging Face files of any age, of Meta's `.pth` files
(DINO, DINOv2, DINOv3) and of open_clip checkpoints to one vocabulary and splits fused tensors, so that a file and a
network can be compared name by name, strictly.

Vocabulary: cls, mask, registers, positions, patch.weight, pre_norm, blocks.N.{norm1, q, k, v, out, scale1, norm2,
mlp_in, mlp_gate, mlp_out, scale2}, norm, projection; head.* of SigLIP's attention pooling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from identisim.models.weights import WeightsError, load_into, require_same_names

_RULES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # wrappers around the vision tower
        (r"^(module\.)?(backbone\.)?((vision_model|visual|dinov2|vit)\.)?", ""),
        (r"^(embeddings|transformer)\.", ""),
        (r"^(encoder\.|model\.)?(layers|layer|blocks|resblocks)\.(?=\d)", "blocks."),
        # tokens and patches
        (r"^(cls_token|class_embedding)$", "cls"),
        (r"^mask_token$", "mask"),
        (r"^(register_tokens|storage_tokens)$", "registers"),
        (r"^(position_embeddings|position_embedding\.weight|pos_embed|positional_embedding)$", "positions"),
        (
            r"^(patch_embeddings\.projection|patch_embeddings|patch_embedding|patch_embed\.proj|conv1)\.(?=weight|bias)",
            "patch.",
        ),
        # norms
        (r"^(pre_layrnorm|ln_pre|pos_drop)\.", "pre_norm."),
        (r"^(layernorm|post_layernorm|ln_post|norm)\.", "norm."),
        (r"(?<=\d\.)(layernorm_before|layer_norm1|ln_1|norm1)\.", "norm1."),
        (r"(?<=\d\.)(layernorm_after|layer_norm2|ln_2|norm2)\.", "norm2."),
        # attention
        (r"(?<=\d\.)(attention|self_attn|attn)\.attention\.(?=query|key|value)", "attn."),
        (r"(?<=\d\.)(attention|self_attn|attn)\.(query|q_proj)\.", "q."),
        (r"(?<=\d\.)(attention|self_attn|attn)\.(key|k_proj)\.", "k."),
        (r"(?<=\d\.)(attention|self_attn|attn)\.(value|v_proj)\.", "v."),
        (r"(?<=\d\.)(attention|self_attn|attn)\.(output\.dense|out_proj|o_proj|proj)\.", "out."),
        (r"(?<=\d\.)attn\.(in_proj_|qkv\.)(?=weight|bias)", "q+k+v."),
        # the two halves of a block
        (r"(?<=\d\.)(layer_scale1\.lambda1|ls1\.gamma)$", "scale1"),
        (r"(?<=\d\.)(layer_scale2\.lambda1|ls2\.gamma)$", "scale2"),
        (r"(?<=\d\.)mlp\.(w12|weights_in)\.", "mlp_gate+mlp_in."),
        (r"(?<=\d\.)mlp\.(gate_proj|w1)\.", "mlp_gate."),
        (r"(?<=\d\.)(mlp\.(fc1|c_fc|up_proj|w2)|intermediate\.dense)\.", "mlp_in."),
        (r"(?<=\d\.)(mlp\.(fc2|c_proj|down_proj|w3|weights_out)|output\.dense)\.", "mlp_out."),
        # CLIP's projection into the space shared with text
        (r"^(visual_projection\.weight|proj)$", "projection"),
    )
)


def canonical_names(name: str) -> tuple[str, ...]:
    """Names, in the vocabulary of this module, of what one tensor holds: several for a fused one, stacked by rows.

    A name that is not known stays as it is.
    """
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name, count=1)
    fused = re.search(r"[a-z_]+(\+[a-z_]+)+", name)
    if fused is None:
        return (name,)
    return tuple(name[: fused.start()] + part + name[fused.end() :] for part in fused.group().split("+"))


def canonical_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a file, and split the fused ones.

    `proj` of open_clip is stored transposed and is turned; DINOv3's masks are applied to the biases of its keys.
    Raises WeightsError when two tensors of the file come to the same name, for a fused one that does not split, and for
    a mask of anything but zeros and ones.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("qkv.bias_mask"):
            continue
        if (mask := state.get(f"{name}_mask")) is not None:
            tensor = _masked(name, tensor, mask)
        if name.rpartition("visual.")[2] == "proj" and tensor.ndim == 2:
            tensor = tensor.T
        targets = canonical_names(name)
        rows = tensor.shape[0] if tensor.ndim else 1
        if rows % len(targets):
            raise WeightsError(f"{name} has {rows} rows; expected {len(targets)} equal parts")
        parts = tensor.chunk(len(targets)) if len(targets) > 1 else (tensor,)
        for target, part in zip(targets, parts, strict=True):
            if target in renamed:
                raise WeightsError(f"two tensors of the file mean the same: {name} is another {target}")
            renamed[target] = part.contiguous()
    return renamed


def _masked(name: str, bias: Tensor, mask: Tensor) -> Tensor:
    """The bias where its mask is 1, else 0."""
    if mask.shape != bias.shape or not bool(((mask == 0) | (mask == 1)).all()):
        raise WeightsError(
            f"{name}_mask: expected zeros and ones, {tuple(bias.shape)}, for the bias beside it"
        )
    return bias.where(mask == 1, 0)


def load_canonical(module: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Copy a state with canonical names into a network of `transformers`, all of it or nothing, as `load_into` does.

    Raises WeightsError, naming tensors in the vocabulary of this module, when any is missing or left over.
    """
    own = module.state_dict()
    wanted = {name: canonical_names(name) for name in own}
    require_same_names([target for targets in wanted.values() for target in targets], state)
    given = {
        name: torch.cat([state[target] for target in targets]) if len(targets) > 1 else state[targets[0]]
        for name, targets in wanted.items()
    }
    # published files differ in leading dimensions of one only: (D,) or (1, 1, D)
    shaped = {
        name: tensor.reshape(own[name].shape)
        if tensor.numel() == own[name].numel() and tensor.squeeze().shape == own[name].squeeze().shape
        else tensor
        for name, tensor in given.items()
    }
    load_into(module, shaped, dtype)


def canonical_views(module: nn.Module) -> dict[str, Tensor]:
    """Views of the parameters of a network under canonical names: what is written into one changes the network."""
    views: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        targets = canonical_names(name)
        parts = parameter.detach().chunk(len(targets)) if len(targets) > 1 else (parameter.detach(),)
        views.update(zip(targets, parts, strict=True))
    return views
