"""What is measured: transformers of every family at true sizes, each with the recipe that trains it, and tiny ones.

The configurations are those of `transformer/config.json` and `scheduler/scheduler_config.json` of the named models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Settings = Mapping[str, Any]

# stabilityai/stable-diffusion-3-medium-diffusers, and what 3.5 changed.
SD3_MEDIUM: Settings = MappingProxyType(
    {
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "out_channels": 16,
        "pos_embed_max_size": 192,
    }
)
SD35_MEDIUM: Settings = MappingProxyType(
    {**SD3_MEDIUM, "pos_embed_max_size": 384, "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm"}
)
SD35_LARGE: Settings = MappingProxyType(
    {
        **SD3_MEDIUM,
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "qk_norm": "rms_norm",
    }
)
FLUX_DEV: Settings = MappingProxyType(
    {
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
        "axes_dims_rope": [16, 56, 56],
    }
)
QWEN_IMAGE: Settings = MappingProxyType(
    {
        "in_channels": 64,
        "out_channels": 16,
        "num_layers": 60,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 3584,
        "axes_dims_rope": [16, 56, 56],
    }
)
Z_IMAGE: Settings = MappingProxyType(
    {
        "in_channels": 16,
        "dim": 3840,
        "n_layers": 30,
        "n_refiner_layers": 2,
        "n_heads": 30,
        "n_kv_heads": 30,
        "cap_feat_dim": 2560,
        "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
    }
)
# black-forest-labs/FLUX.2-klein-base-4B.
FLUX2_KLEIN: Settings = MappingProxyType(
    {
        "in_channels": 128,
        "num_layers": 5,
        "num_single_layers": 20,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 7680,
        "axes_dims_rope": [32, 32, 32, 32],
        "guidance_embeds": False,
    }
)
# Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers.
SANA_1600M: Settings = MappingProxyType(
    {
        "sample_size": 32,
        "patch_size": 1,
        "in_channels": 32,
        "out_channels": 32,
        "num_layers": 20,
        "attention_head_dim": 32,
        "num_attention_heads": 70,
        "num_cross_attention_heads": 20,
        "cross_attention_head_dim": 112,
        "cross_attention_dim": 2240,
        "caption_channels": 2304,
        "qk_norm": "rms_norm_across_heads",
    }
)
# krea/Krea-2-Raw.
KREA2: Settings = MappingProxyType(
    {
        "in_channels": 64,
        "num_layers": 28,
        "attention_head_dim": 128,
        "num_attention_heads": 48,
        "num_key_value_heads": 12,
        "intermediate_size": 16384,
        "text_hidden_dim": 2560,
        "num_text_layers": 12,
        "num_layerwise_text_blocks": 2,
        "axes_dims_rope": [32, 48, 48],
    }
)
PLAIN_SHIFT: Settings = MappingProxyType({"shift": 3.0})
DYNAMIC_SHIFT: Settings = MappingProxyType({"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15})
QWEN_SHIFT: Settings = MappingProxyType(
    {**DYNAMIC_SHIFT, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
)
KREA2_SHIFT: Settings = MappingProxyType({**DYNAMIC_SHIFT, "max_image_seq_len": 6400})
MULTISTEP_SHIFT: Settings = MappingProxyType(
    {
        "_class_name": "DPMSolverMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
    }
)


@dataclass(frozen=True, slots=True)
class Model:
    """A transformer and the recipe whose ways it is measured in.

    Attributes:
        name: In the document and the table.
        family: Of `models/families/registry.py`.
        recipe: A configuration that ships.
        transformer: Configuration of the family's class of diffusers.
        scheduler: That of its scheduler.
        overrides: What differs from the recipe beside what one card asks for.
        clip_tokens: Of the tokenizer of a CLIP text encoder.
        pixels: Side of the image region of one latent element.
    """

    name: str
    family: str
    recipe: str
    transformer: Settings
    scheduler: Settings
    overrides: tuple[str, ...] = ()
    clip_tokens: int = 77
    pixels: int = 8


# No whole network of SD3 medium's size learns beside a discriminator's own copy on any one card, so that reads the
# teacher. Z-Image has no recipe; its adapters are those of the recipe whose network is next to it in size.
FULL: tuple[Model, ...] = (
    Model(
        "sd3_medium",
        "sd3",
        "sd3_medium",
        SD3_MEDIUM,
        PLAIN_SHIFT,
        overrides=("discriminator.backbone=teacher",),
    ),
    Model("sd35_medium_lora", "sd3", "sd35_medium_lora", SD35_MEDIUM, PLAIN_SHIFT),
    Model("sd35_large_lora", "sd3", "sd35_large_lora", SD35_LARGE, PLAIN_SHIFT),
    Model("flux_dev_lora", "flux", "flux_dev_lora", FLUX_DEV, DYNAMIC_SHIFT),
    Model("qwen_image_lora_2step", "qwen_image", "qwen_image_lora_2step", QWEN_IMAGE, QWEN_SHIFT),
    Model(
        "z_image_lora",
        "z_image",
        "sd35_large_lora",
        Z_IMAGE,
        PLAIN_SHIFT,
        overrides=("model.max_sequence_length=512", "discriminator.blocks=[10, 20]"),
    ),
)

PLANNED: tuple[Model, ...] = (
    Model("flux2_klein_lora", "flux2", "flux2_klein_lora", FLUX2_KLEIN, DYNAMIC_SHIFT),
    Model("sana_lora", "sana", "sana_lora", SANA_1600M, MULTISTEP_SHIFT, pixels=32),
    Model("krea2_lora", "krea2", "krea2_lora", KREA2, KREA2_SHIFT),
)
"""Models of recipes that are planned and not measured: their families have no loop written by hand (`plain.py`)."""

_SMALL = (
    "model.height=64",
    "model.width=64",
    "model.max_sequence_length=8",
    "dmd.batch_size=4",
    "fake_score.batch_size=4",
    "discriminator.batch_size=2",
    "rollout.group_size=4",
    "policy_gradient.group_rows=4",
    "discriminator.width=4",
    "discriminator.blocks=[1, 2]",
)
_SMALL_ADAPTERS = (*_SMALL, "lora.rank=4")
_TINY_SD3: Settings = MappingProxyType(
    {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 4,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 16,
        "out_channels": 4,
        "pos_embed_max_size": 16,
        "dual_attention_layers": [0, 1],
        "qk_norm": "rms_norm",
    }
)
_TINY_PACKED: Settings = MappingProxyType(
    {
        "in_channels": 16,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "axes_dims_rope": [4, 4, 8],
    }
)
TINY: tuple[Model, ...] = (
    Model(
        "tiny_sd3",
        "sd3",
        "sd3_medium",
        _TINY_SD3,
        PLAIN_SHIFT,
        (*_SMALL, "discriminator.backbone=teacher"),
        clip_tokens=4,
    ),
    Model("tiny_sd3_lora", "sd3", "sd35_medium_lora", _TINY_SD3, PLAIN_SHIFT, _SMALL_ADAPTERS, clip_tokens=4),
    Model(
        "tiny_flux_lora",
        "flux",
        "flux_dev_lora",
        MappingProxyType(
            {**_TINY_PACKED, "num_layers": 2, "num_single_layers": 2, "pooled_projection_dim": 16}
            | {"guidance_embeds": True}
        ),
        DYNAMIC_SHIFT,
        _SMALL_ADAPTERS,
    ),
    Model(
        "tiny_qwen_image_lora",
        "qwen_image",
        "qwen_image_lora_2step",
        MappingProxyType({**_TINY_PACKED, "out_channels": 4}),
        QWEN_SHIFT,
        _SMALL_ADAPTERS,
    ),
    Model(
        "tiny_z_image_lora",
        "z_image",
        "sd35_large_lora",
        MappingProxyType(
            {
                "in_channels": 4,
                "dim": 32,
                "n_layers": 3,
                "n_refiner_layers": 1,
                "n_heads": 2,
                "n_kv_heads": 2,
                "cap_feat_dim": 24,
                "axes_dims": [4, 4, 8],
                "axes_lens": [512, 64, 64],
            }
        ),
        PLAIN_SHIFT,
        (*_SMALL_ADAPTERS, "model.height=128"),  # tokens in multiples of 32, or they are padded
    ),
)
SIZES: Mapping[str, tuple[Model, ...]] = {"full": FULL, "tiny": TINY}
FAMILIES = tuple(dict.fromkeys(model.family for model in FULL))


def model_named(name: str) -> Model:
    """A model of any size by its name."""
    return next(model for models in SIZES.values() for model in models if model.name == name)
