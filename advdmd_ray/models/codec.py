"""An identity image codec: pixels are the latents.

Small images need no autoencoder, but `StableDiffusion3Pipeline` wants one, with the attributes of `AutoencoderKL`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput

# diffusers looks the base class up by name in the module that a pipeline folder names for a component.
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class PointDistribution:
    """A distribution with all its mass on one value, with the methods of a diffusers latent distribution."""

    value: Float[Tensor, "b c h w"]

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "b c h w"]:  # noqa: ARG002 - diffusers' signature
        """Return the value; `generator` is accepted and not used."""
        return self.value

    def mode(self) -> Float[Tensor, "b c h w"]:
        """Return the value."""
        return self.value


class PixelCodec(ModelMixin, ConfigMixin):
    """Encodes an image to itself and decodes it to itself, float32 `[b, c, h, w]` in [-1, 1].

    Args:
        latent_channels: Channels of images and latents.
        block_out_channels: One entry, so that the pipeline's scale factor, 2 ** (entries - 1), is 1.
        scaling_factor: 1: latents are not scaled.
        shift_factor: 0: latents are not shifted.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 1,  # noqa: ARG002 - diffusers registers the arguments as the configuration
        block_out_channels: Sequence[int] = (1,),  # noqa: ARG002
        scaling_factor: float = 1.0,  # noqa: ARG002
        shift_factor: float = 0.0,  # noqa: ARG002
    ) -> None:
        super().__init__()
        # Pipelines ask a component for its device and dtype through its parameters; a safetensors file needs one too.
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def encode(
        self,
        x: Float[Tensor, "b c h w"],
        return_dict: bool = True,  # noqa: FBT001, FBT002 - AutoencoderKL's signature
    ) -> AutoencoderKLOutput | tuple[PointDistribution]:
        """Return the image as a latent distribution without spread."""
        distribution = PointDistribution(x)
        if not return_dict:
            return (distribution,)
        return AutoencoderKLOutput(latent_dist=distribution)  # pyright: ignore[reportArgumentType] - same methods, no common base

    def decode(
        self,
        z: Float[Tensor, "b c h w"],
        return_dict: bool = True,  # noqa: FBT001, FBT002 - AutoencoderKL's signature
        generator: torch.Generator | None = None,  # noqa: ARG002
    ) -> DecoderOutput | tuple[Tensor]:
        """Return the latents as the image."""
        if not return_dict:
            return (z,)
        return DecoderOutput(sample=z)
