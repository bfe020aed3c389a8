"""Loops that a script around diffusers' transformers has: the rivals of the rollout station.

All is on the device, packed once where a family packs its latents; no trajectory is kept, no seed belongs to a sample.
Written by hand after the families' pipelines, without any code of the package.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Script(ABC):
    """What a script does in its family's way.

    Args:
        transformer: diffusers' own, in bfloat16.
        embeds: `[b, l, d]` prompts, in bfloat16, none padded.
        pooled: `[b, p]`.
        guidance: Scale, for families whose transformer takes it as an input.
        size: Height and width of a latent.
    """

    def __init__(
        self, transformer: nn.Module, embeds: Tensor, pooled: Tensor, guidance: float, size: tuple[int, int]
    ) -> None:
        self.transformer, self.embeds, self.pooled, self.guidance = transformer, embeds, pooled, guidance
        self.height, self.width = size

    def packed(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """Latents as the transformer takes them."""
        return x

    def unpacked(self, x: Tensor) -> Float[Tensor, "b c h w"]:
        """And back."""
        return x

    @abstractmethod
    def velocity(self, x: Tensor, t: Float[Tensor, " b"]) -> Tensor:
        """What the transformer says of packed latents at level t."""


class SD3(Script):
    """Stable Diffusion 3: time to 1000."""

    def velocity(self, x: Tensor, t: Float[Tensor, " b"]) -> Tensor:
        """See `Script`."""
        return self.transformer(
            hidden_states=x.to(self.embeds.dtype),
            timestep=1000 * t,
            encoder_hidden_states=self.embeds,
            pooled_projections=self.pooled,
            return_dict=False,
        )[0]


class _Packs(Script):
    """Tokens of 2 x 2 latents."""

    def packed(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """See `Script`."""
        batch, channels, height, width = x.shape
        tiles = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return tiles.reshape(batch, height * width // 4, 4 * channels)

    def unpacked(self, x: Tensor) -> Float[Tensor, "b c h w"]:
        """See `Script`."""
        batch, _, channels = x.shape
        tiles = x.view(batch, self.height // 2, self.width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return tiles.reshape(batch, channels // 4, self.height, self.width)


class Flux(_Packs):
    """FLUX.1: positions by row and column, the guidance scale as an input."""

    def velocity(self, x: Tensor, t: Float[Tensor, " b"]) -> Tensor:
        """See `Script`."""
        positions = torch.zeros(self.height // 2, self.width // 2, 3, device=x.device)
        positions[..., 1] += torch.arange(self.height // 2, device=x.device)[:, None]
        positions[..., 2] += torch.arange(self.width // 2, device=x.device)[None, :]
        return self.transformer(
            hidden_states=x.to(self.embeds.dtype),
            timestep=t.to(self.embeds.dtype),
            guidance=torch.full_like(t, self.guidance),
            encoder_hidden_states=self.embeds,
            pooled_projections=self.pooled,
            txt_ids=torch.zeros(self.embeds.shape[1], 3, device=x.device),
            img_ids=positions.flatten(0, 1),
            return_dict=False,
        )[0]


class QwenImage(_Packs):
    """Qwen-Image: the shape of each image beside its tokens."""

    def velocity(self, x: Tensor, t: Float[Tensor, " b"]) -> Tensor:
        """See `Script`."""
        return self.transformer(
            hidden_states=x.to(self.embeds.dtype),
            timestep=t.to(self.embeds.dtype),
            encoder_hidden_states=self.embeds,
            encoder_hidden_states_mask=None,
            img_shapes=[[(1, self.height // 2, self.width // 2)]] * len(x),
            return_dict=False,
        )[0]


class ZImage(Script):
    """Z-Image: lists of images of one frame, time from noise to data, the velocity towards data."""

    def velocity(self, x: Tensor, t: Float[Tensor, " b"]) -> Tensor:
        """See `Script`."""
        frames = list(x.to(self.embeds.dtype).unsqueeze(2).unbind())
        towards_data = self.transformer(frames, 1 - t, list(self.embeds), return_dict=False)[0]
        return -torch.stack(towards_data).squeeze(2)


SCRIPTS: Mapping[str, type[Script]] = {"sd3": SD3, "flux": Flux, "qwen_image": QwenImage, "z_image": ZImage}


@torch.no_grad()
def plain_loop(script: Script, x: Float[Tensor, "b c h w"], sigmas: Sequence[float]) -> Float[Tensor, "b c h w"]:
    """Draws images. The update is `FlowMatchEulerDiscreteScheduler`'s with `stochastic_sampling=True`.

    Args:
        script: The family's.
        x: Noise, float32.
        sigmas: K + 1 levels, the last 0.
    """
    x = script.packed(x)
    for sigma, lower in itertools.pairwise(sigmas):
        velocity = script.velocity(x, torch.full((len(x),), sigma, device=x.device)).float()
        clean = x - sigma * velocity
        x = clean if lower == 0 else (1 - lower) * clean + lower * torch.randn_like(x)
    return script.unpacked(x)
