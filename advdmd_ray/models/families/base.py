"""What an adapter is: everything that one family of transformers and pipelines does in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser, GuidanceRule, classifier_free, guided

TIMESTEPS = 1000.0
"""Pipelines count time from 0 (data) to 1000 (noise). A transformer's time embedding turns a difference of one float32
rounding into one of 1e-4 radians, so adapters scale and divide just as the pipelines do."""

# Pipelines and their parts are diffusers' own classes, which share no type that names what is used of them.
Pipeline = Any
ImageCodec = Any


class FirstInput(nn.Module):
    """Gives its first input back."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """See the class."""
        return x


class Blank(nn.Module):
    """Zeros in place of a linear layer's output.

    Args:
        out_features: Channels of the output.
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, x: Float[Tensor, "*batch d"], *_: Any, **__: Any) -> Float[Tensor, "*batch o"]:
        """Zeros `[..., out_features]`."""
        return x.new_zeros(*x.shape[:-1], self.out_features)


@dataclass(frozen=True, slots=True)
class Execution:
    """How a network computes; what it computes is the same but for rounding.

    Attributes:
        autocast: Whether matrix products run in bfloat16.
        micro_batch: Most images in one call; None: all. With classifier-free guidance an image is two rows, which go
            together. Whoever trains gives no more at a time (`learner/parts.py`): a graph holds all calls of which it
            is made.
    """

    autocast: bool = False
    micro_batch: int | None = None


class TransformerDenoiser(nn.Module):
    """A diffusers transformer behind the `Denoiser` protocol.

    Noisy latents are `[b, c, h, w]` outside, whatever the transformer packs them into. What goes in may be on another
    device than the network, and what comes out is where it came from, in float32: solver, losses and latents need no
    accelerator.

    Args:
        transformer: The network; it is held, not copied.
        guidance: Given to the transformer by families that take the guidance scale as an input; others ignore it.
        execution: How it computes.
    """

    block_lists: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    """The transformer's lists of blocks, in the order they run."""

    def __init__(self, transformer: nn.Module, guidance: float = 1.0, execution: Execution = Execution()) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.guidance, self.execution = guidance, execution

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """Predict the velocity eps - x0 of flow matching, `x_t = (1 - t) x0 + t eps` (Esser et al. 2024, SD3).

        Args:
            x: Noisy latents.
            t: Noise level of each sample, in [0, 1].
            conditioning: One row per sample.
        """
        return self.in_parts(self.whole)(x, t, conditioning)

    def in_parts(self, velocity: Denoiser) -> Denoiser:
        """A denoiser that gives `velocity` parts of a batch, of `Execution.micro_batch` images each.

        Args:
            velocity: Made of `whole`, such as its guided form.
        """

        def parted(
            x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
        ) -> Float[Tensor, "b c h w"]:
            most = self.execution.micro_batch
            if most is None or len(x) <= most:
                return velocity(x, t, conditioning)
            parts = [slice(first, first + most) for first in range(0, len(x), most)]
            return torch.cat([velocity(x[rows], t[rows], conditioning.part(rows)) for rows in parts])

        return parted

    def whole(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """`forward` in one call of the network, however many rows there are."""
        conditioning = conditioning.trimmed()  # of this part alone: rows of one prompt need no mask
        device, dtype = self.transformer.device, self.transformer.dtype
        with torch.autocast(device.type, torch.bfloat16, enabled=self.execution.autocast):
            v = self.velocity(x.to(device, dtype), t.to(device), conditioning.to(device, dtype))
        return v.to(x.device, x.dtype)

    def velocity(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """`forward` in the network's own precision."""
        raise NotImplementedError

    def image_tokens(self, output: Any, size: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """The image tokens in what a block returned for latents of this height and width."""
        raise NotImplementedError

    @property
    def token_width(self) -> int:
        """Channels of a token, d."""
        return self.transformer.inner_dim

    @property
    def summary_width(self) -> int:
        """Channels of `Conditioning.summary()` of the family's prompts."""
        return self.transformer.config["pooled_projection_dim"]

    def blank_output(self) -> dict[str, nn.Module]:
        """Stand-ins without weights for the transformer's parts behind the last block, by name."""
        return {"norm_out": FirstInput(), "proj_out": Blank(self.transformer.proj_out.out_features)}

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks, in the order they run."""
        return [block for name in self.block_lists for block in getattr(self.transformer, name)]


class Adapter:
    """A family's ways outside its transformer; the codec here is `AutoencoderKL`'s."""

    denoiser: ClassVar[type[TransformerDenoiser]]
    empty_prompt: ClassVar[str] = ""
    """The text of the unconditional half of classifier-free guidance."""
    fixed_tokenizers: ClassVar[tuple[str, ...]] = ()
    """Tokenizers that hand on as many tokens as they are made for, whatever `max_tokens` is."""
    combine: GuidanceRule = staticmethod(classifier_free)
    """How that half and the other become one velocity."""
    unguided_scale: ClassVar[float] = 1.0
    """The pipeline's guidance scale that is none; further scales are as far from it as ours are from 1."""

    def encode(self, pipeline: Pipeline, prompts: Sequence[str], max_tokens: int) -> Conditioning:
        """Encode prompts as the pipeline itself does, one row each.

        Args:
            pipeline: Its text encoders are used where they are.
            prompts: One or more prompts.
            max_tokens: Most text tokens.
        """
        raise NotImplementedError

    def wrapped(self, pipeline: Pipeline, prompts: Sequence[str]) -> list[str]:
        """Prompts as the pipeline hands them to its tokenizers."""
        del pipeline
        return list(prompts)

    def dropped_tokens(self, pipeline: Pipeline) -> int:
        """Tokens of what the prompts are wrapped in that count for nothing."""
        del pipeline
        return 0

    def guided(self, denoiser: Denoiser, empty: Conditioning, guidance: float) -> Denoiser:
        """The denoiser with the guidance of the family.

        A network that works in parts gets the two rows of an image in one part: its parts are cut from the images.

        Args:
            denoiser: One of the family's.
            empty: The encoded `empty_prompt`, a batch of one.
            guidance: The scale; 1 is none, where it is not an input of the transformer.
        """
        if guidance == 1 or not isinstance(denoiser, TransformerDenoiser):
            return guided(denoiser, empty, guidance, self.combine)
        return denoiser.in_parts(guided(denoiser.whole, empty, guidance, self.combine))

    def guided_call(self, guidance: float, prompts: int) -> dict[str, Any]:
        """Arguments with which the pipeline samples with a guidance scale of the family.

        Args:
            guidance: As in `guided`.
            prompts: Number of prompts of the call.
        """
        del prompts
        return {"guidance_scale": guidance + (self.unguided_scale - 1)}

    def unguided(self, guidance: float) -> dict[str, Any]:
        """Arguments with which the pipeline calls its transformer once a step.

        Args:
            guidance: Of the student, for families that take it as an input.
        """
        del guidance
        return {"guidance_scale": self.unguided_scale}

    def to_latents(self, codec: ImageCodec, images: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        """The most likely latents of images in [-1, 1], in the denoiser's units."""
        shift = codec.config.shift_factor or 0.0
        return (codec.encode(images, return_dict=False)[0].mode() - shift) * codec.config.scaling_factor

    def to_images(self, codec: ImageCodec, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b i H W"]:
        """The images of latents, near [-1, 1]."""
        shift = codec.config.shift_factor or 0.0
        return codec.decode(latents / codec.config.scaling_factor + shift, return_dict=False)[0]


class FrameCodecAdapter(Adapter):
    """The codec is one of videos, with a mean and a deviation for each channel; an image is a video of one frame."""

    def to_latents(self, codec: ImageCodec, images: Float[Tensor, "b i H W"]) -> Float[Tensor, "b c h w"]:
        """See `Adapter`."""
        mean, std = _channel_scales(codec, images)
        latents = codec.encode(images.unsqueeze(2), return_dict=False)[0].mode()
        return ((latents - mean) / std).squeeze(2)

    def to_images(self, codec: ImageCodec, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b i H W"]:
        """See `Adapter`."""
        mean, std = _channel_scales(codec, latents)
        return codec.decode(latents.unsqueeze(2) * std + mean, return_dict=False)[0].squeeze(2)


def _channel_scales(codec: ImageCodec, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each latent channel, `[1, c, 1, 1, 1]`."""
    values = torch.tensor([codec.config.latents_mean, codec.config.latents_std]).to(like)
    mean, std = values.reshape(2, 1, -1, 1, 1, 1)
    return mean, std


def packed(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
    """Patches of 2 x 2 latents as tokens, row by row; a token's channels are c, then row, then column: d = 4 c."""
    return nn.functional.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)


def unpacked(tokens: Float[Tensor, "b n d"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    """The latents that `packed` packs into these tokens."""
    return nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)


def to_longest(embeds: Float[Tensor, "b l d"], mask: Tensor) -> tuple[Float[Tensor, "b m d"], Tensor]:
    """Token sequences and their mask `[b, l]` without the padding that all of them end with."""
    longest = int(mask.sum(dim=1).max())
    return embeds[:, :longest], mask[:, :longest]


def padded(rows: Sequence[Float[Tensor, "_ d"]]) -> tuple[Float[Tensor, "b l d"], Tensor]:
    """Token sequences of unequal length as one tensor, zeros at the end, and the mask `[b, l]` of what is theirs."""
    embeds = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
    return embeds, torch.arange(embeds.shape[1], device=embeds.device) < lengths.unsqueeze(1)
