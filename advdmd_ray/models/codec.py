"""Image codecs without a convolution: pixels as they are, and patches on their principal components.

Small images need no autoencoder, but `StableDiffusion3Pipeline` wants one, with the attributes of `AutoencoderKL`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.models.diffusers_classes import UNUSED, hidden

with hidden(UNUSED):
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.autoencoders.vae import DecoderOutput
    from diffusers.models.modeling_outputs import AutoencoderKLOutput

    # diffusers looks the base class up by name in the module that a pipeline folder names for a component.
    from diffusers.models.modeling_utils import ModelMixin

LEAST_DEVIATION = 1e-6
"""A component that varies less beside the first is rounding, not data."""


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


class PatchCodec(ModelMixin, ConfigMixin):
    """A linear codec: every patch of an image becomes one latent vector, its scaled principal components.

    With mean m `[d]`, orthonormal basis B `[d, k]` and scales s `[k]` of patches of d = channels x patch x patch
    values: encoding is `z = (p - m) B / s`, decoding `p = (z s) B' + m`. Decoding what was encoded loses the
    components beyond the first k only; with k = d nothing.

    Args:
        latent_channels: Components kept, k.
        image_channels: Channels of an image.
        block_out_channels: log2(patch) + 1 entries: the pipeline's scale factor is 2 ** (entries - 1).
        scaling_factor: 1: the scales are the codec's own.
        shift_factor: 0: the mean is the codec's own.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        image_channels: int = 3,
        block_out_channels: Sequence[int] = (1, 1, 1),
        scaling_factor: float = 1.0,  # noqa: ARG002
        shift_factor: float = 0.0,  # noqa: ARG002
    ) -> None:
        super().__init__()
        self.patch = 2 ** (len(block_out_channels) - 1)
        values = image_channels * self.patch**2
        self.mean = nn.Parameter(torch.zeros(values), requires_grad=False)
        self.basis = nn.Parameter(torch.eye(values, latent_channels), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(latent_channels), requires_grad=False)

    @classmethod
    def fit(cls, images: Float[Tensor, "n c h w"], *, patch: int, components: int, whitening: float) -> "PatchCodec":
        """Fit a codec to images.

        Component i of standard deviation d_i is divided by `d_i ** whitening`, and all by one number that gives the
        latents a mean square of 1. So whitening 0 keeps the shape of the data, and 1 gives all components one variance.

        Args:
            images: In [-1, 1].
            patch: Side of a patch, a power of two, pixels.
            components: Components kept, at most c x patch x patch.
            whitening: In [0, 1].

        Raises:
            ValueError: `patch` is no power of two, or there are not so many components, or not so many that vary.
        """
        channels = images.shape[1]
        values = channels * patch**2
        if patch & (patch - 1) or not 1 <= components <= values:
            raise ValueError(
                f"need a patch of 1, 2, 4, ... pixels and 1 to {values} components, got {patch} and {components}"
            )
        codec = cls(components, channels, (1,) * patch.bit_length())
        patches = codec._patches(images).flatten(0, 2).double()
        variances, vectors = torch.linalg.eigh(torch.atleast_2d(torch.cov(patches.T)))
        deviations = variances.flip(0)[:components].clamp(min=0).sqrt()
        if deviations[-1] <= LEAST_DEVIATION * deviations[0]:
            raise ValueError(f"the patches vary in fewer than {components} components; keep fewer, or give more images")
        # An eigenvector's sign is arbitrary: its largest entry is made positive, so that all machines agree.
        basis = vectors.flip(1)[:, :components]
        basis = basis * basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)).sign()
        scale = deviations**whitening
        scale = scale * (deviations / scale).square().mean().sqrt()
        for parameter, value in ((codec.mean, patches.mean(dim=0)), (codec.basis, basis), (codec.scale, scale)):
            parameter.data.copy_(value)
        return codec

    def _patches(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h2 w2 d"]:
        return nn.functional.pixel_unshuffle(images, self.patch).permute(0, 2, 3, 1)

    def encode(
        self,
        x: Float[Tensor, "b c h w"],
        return_dict: bool = True,  # noqa: FBT001, FBT002 - AutoencoderKL's signature
    ) -> AutoencoderKLOutput | tuple[PointDistribution]:
        """Return the latents `[b, k, h / patch, w / patch]` as a distribution without spread."""
        latents = (self._patches(x) - self.mean) @ self.basis / self.scale
        distribution = PointDistribution(latents.permute(0, 3, 1, 2).contiguous())
        if not return_dict:
            return (distribution,)
        return AutoencoderKLOutput(latent_dist=distribution)  # pyright: ignore[reportArgumentType] - same methods, no common base

    def decode(
        self,
        z: Float[Tensor, "b k h w"],
        return_dict: bool = True,  # noqa: FBT001, FBT002 - AutoencoderKL's signature
        generator: torch.Generator | None = None,  # noqa: ARG002
    ) -> DecoderOutput | tuple[Tensor]:
        """Return the images `[b, c, h * patch, w * patch]`."""
        patches = (z.permute(0, 2, 3, 1) * self.scale) @ self.basis.T + self.mean
        images = nn.functional.pixel_shuffle(patches.permute(0, 3, 1, 2), self.patch)
        if not return_dict:
            return (images,)
        return DecoderOutput(sample=images)
