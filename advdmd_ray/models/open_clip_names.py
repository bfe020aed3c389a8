"""From the names that open_clip, and OpenAI's CLIP before it, give a CLIP's weights to those of transformers."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

MARK = "visual.conv1.weight"
"""A weight that has this name in open_clip, and another in transformers."""

_NAMES = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
)
_IN_LAYERS = (
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_TURNED = {"visual_projection.weight", "text_projection.weight"}
_FUSED = re.compile(r"^(.*)\.attn\.in_proj_(weight|bias)$")


def transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights, float32, by the names of transformers' `CLIPModel`.

    open_clip keeps query, key and value of an attention in one matrix, and its projections the other way round.

    Args:
        state: By the names of open_clip's ViT.
    """
    found: dict[str, Tensor] = {}
    for old, tensor in state.items():
        name = old
        for pattern, new in (*_NAMES, *_IN_LAYERS):
            name = re.sub(pattern, new, name)
        weight = tensor.float()
        if fused := _FUSED.match(name):
            layer, kind = fused.groups()
            for part, piece in zip(("q_proj", "k_proj", "v_proj"), weight.chunk(3), strict=True):
                found[f"{layer}.self_attn.{part}.{kind}"] = piece.clone()
        else:
            found[name] = torch.clone(weight.T) if name in _TURNED else weight
    return {name: weight.contiguous() for name, weight in found.items()}
