"""What is measured: the shapes of a transformer, of its latents and prompts, and of one cycle's batches."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

SHIFT = 3.0
"""Of SD3's and SD3.5's scheduler."""

# transformer/config.json of stabilityai/stable-diffusion-3-medium-diffusers, and of stable-diffusion-3.5-medium.
SD3_MEDIUM: Mapping[str, Any] = MappingProxyType(
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
SD35_MEDIUM: Mapping[str, Any] = MappingProxyType(
    {**SD3_MEDIUM, "pos_embed_max_size": 384, "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm"}
)


@dataclass(frozen=True, slots=True)
class Size:
    """One size of everything.

    Attributes:
        name: As on the command line.
        transformer: Configuration of diffusers' `SD3Transformer2DModel`.
        side: Height and width of a latent.
        pixels: Height and width of the image that such a latent stands for.
        text_tokens: Tokens of a prompt.
        group_size: Trajectories of a group, made in one batch.
        rows: Images of one update of fake score and student (DMD); of the discriminator as many real and fake ones.
        group_rows: Trajectories of each action in one RL update, even.
        rank: Of the adapters.
        blocks: Blocks whose features the discriminator reads.
        head_width: Channels of the head on each of them.
    """

    name: str
    transformer: Mapping[str, Any]
    side: int
    pixels: int
    text_tokens: int
    group_size: int
    rows: int
    group_rows: int
    rank: int
    blocks: tuple[int, ...]
    head_width: int

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.transformer["in_channels"], self.side, self.side


TINY = Size(
    name="tiny",
    transformer=MappingProxyType(
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "num_layers": 6,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 24,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 16,
            "out_channels": 4,
            "pos_embed_max_size": 16,
            "dual_attention_layers": [0, 1, 2],
            "qk_norm": "rms_norm",
        }
    ),
    side=16,
    pixels=128,
    text_tokens=10,
    group_size=4,
    rows=4,
    group_rows=2,
    rank=4,
    blocks=(1, 3),
    head_width=4,
)
FULL = Size(
    name="sd35_medium",
    transformer=SD35_MEDIUM,
    side=128,
    pixels=1024,
    text_tokens=333,  # 77 of the CLIP encoders, then a T5 slot of 256
    group_size=8,
    rows=8,
    group_rows=4,
    rank=32,
    blocks=(8, 16),
    head_width=64,
)
SIZES: Mapping[str, Size] = {size.name: size for size in (FULL, TINY)}
