"""An SD3 transformer as a denoiser."""

from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.diffusers_classes import SD3Transformer2DModel

TIMESTEPS = 1000.0
"""The transformer counts time from 0 (data) to 1000 (noise)."""


class SD3Denoiser(nn.Module):
    """`SD3Transformer2DModel` behind the `Denoiser` protocol.

    Args:
        transformer: Any SD3 or SD3.5 transformer; it is held, not copied.
    """

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """Predict the velocity eps - x0 of flow matching, `x_t = (1 - t) x0 + t eps` (Esser et al. 2024, SD3).

        Args:
            x: Noisy latents.
            t: Noise level of each sample, in [0, 1].
            conditioning: One row per sample.
        """
        return self.transformer(
            hidden_states=x,
            encoder_hidden_states=conditioning.embeds,
            pooled_projections=conditioning.pooled,
            timestep=t * TIMESTEPS,
            return_dict=False,
        )[0]
