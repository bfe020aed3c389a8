"""Qwen-Image: packed latents, a mask over text tokens, guidance that keeps the norm, a codec of videos."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning, classifier_free
from advdmd_ray.models.families.base import (
    TIMESTEPS,
    FrameCodecAdapter,
    Pipeline,
    TransformerDenoiser,
    packed,
    unpacked,
)


class QwenImageDenoiser(TransformerDenoiser):
    """`QwenImageTransformer2DModel`."""

    def velocity(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """See `TransformerDenoiser`."""
        height, width = x.shape[2:]
        tokens = self.transformer(
            hidden_states=packed(x),
            encoder_hidden_states=conditioning.embeds,
            encoder_hidden_states_mask=conditioning.mask,
            timestep=t * TIMESTEPS / TIMESTEPS,
            img_shapes=[[(1, height // 2, width // 2)]] * len(x),
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)

    def image_tokens(self, output: Any, size: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """See `TransformerDenoiser`; a block returns text tokens, then image tokens."""
        del size
        return output[1]

    @property
    def summary_width(self) -> int:
        """See `TransformerDenoiser`."""
        return self.transformer.config["joint_attention_dim"]


def norm_keeping(
    without: Float[Tensor, "b c h w"], with_text: Float[Tensor, "b c h w"], guidance: float
) -> Float[Tensor, "b c h w"]:
    """Classifier-free guidance in which every token keeps the norm that it has with the prompt (Qwen-Image)."""
    guided = classifier_free(without, with_text, guidance)
    kept, norm = (nn.functional.pixel_unshuffle(v, 2).norm(dim=1, keepdim=True) for v in (with_text, guided))
    return guided * (kept / norm).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class QwenImage(FrameCodecAdapter):
    """The empty prompt of guidance is a space."""

    denoiser = QwenImageDenoiser
    empty_prompt = " "
    combine = staticmethod(norm_keeping)

    def encode(self, pipeline: Pipeline, prompts: Sequence[str], max_tokens: int) -> Conditioning:
        """See `Adapter`."""
        embeds, mask = pipeline.encode_prompt(prompt=list(prompts), max_sequence_length=max_tokens)
        # The pipeline leaves the mask out where nothing is padded; here such rows may yet be joined by longer ones.
        own = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if mask is None else mask.bool()
        return Conditioning(embeds, embeds.new_zeros(len(embeds), 0), own)

    def wrapped(self, pipeline: Pipeline, prompts: Sequence[str]) -> list[str]:
        """See `Adapter`."""
        return [pipeline.prompt_template_encode.format(prompt) for prompt in prompts]

    def dropped_tokens(self, pipeline: Pipeline) -> int:
        """See `Adapter`: the words before the prompt are encoded, and dropped then."""
        return pipeline.prompt_template_encode_start_idx

    def guided_call(self, guidance: float, prompts: int) -> dict[str, Any]:
        """See `Adapter`."""
        return {"true_cfg_scale": guidance, "negative_prompt": [self.empty_prompt] * prompts}

    def unguided(self, guidance: float) -> dict[str, Any]:
        """See `Adapter`."""
        del guidance
        return {"true_cfg_scale": 1.0}


ADAPTER = QwenImage()
