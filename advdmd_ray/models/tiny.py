"""The tiny Stable Diffusion 3 pipeline, built offline from code with real diffusers and transformers parts."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.models.codec import PatchCodec, PixelCodec
from advdmd_ray.models.diffusers_classes import (
    UNUSED,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    hidden,
)

with hidden(UNUSED):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

HEADS = 4
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

TextEncoder: TypeAlias = CLIPTextModelWithProjection
Tokenizer: TypeAlias = CLIPTokenizer


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a tiny pipeline.

    Attributes:
        latent_side: Height and width of a latent.
        latent_channels: Channels of a latent.
        patch: Side of the transformer's patches, latent elements.
        context: Tokens of a prompt, with the start and end marks.
        head_width: Channels of each of the four attention heads.
        layers: Blocks.
        position_scale: Size of the text encoders' position embeddings beside word embeddings of size 1.
        text_width: Channels of each of the two text encoders.
        grid_frequencies: Whether the image tokens' positions use `grid_positions` instead of diffusers' table, whose
            frequencies are those of long sequences: neighbours on a small grid hardly differ in it.
    """

    latent_side: int
    latent_channels: int
    patch: int
    context: int
    head_width: int
    layers: int
    position_scale: float
    text_width: int
    grid_frequencies: bool

    @property
    def width(self) -> int:
        """Channels of a token."""
        return HEADS * self.head_width


DIGITS = Architecture(
    latent_side=8,
    latent_channels=1,
    patch=2,
    context=8,
    head_width=24,
    layers=4,
    position_scale=0.3,
    text_width=32,
    grid_frequencies=False,
)
"""For 8x8 digits: 16 image tokens, about 1.2 million parameters."""
SHAPES = Architecture(
    latent_side=3,
    latent_channels=22,
    patch=1,
    context=16,
    head_width=24,
    layers=6,
    position_scale=0.7,
    text_width=32,
    grid_frequencies=True,
)
"""For 24x24 scenes of shapes: 9 image tokens, one for each place."""


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes of byte-level byte-pair encoding (Radford et al. 2019, GPT-2).

    Printable Latin-1 bytes stand for themselves; the others get the code points from 256 upwards, in byte order.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + place) for place in range(len(hidden))]


def build_tokenizer(words: Sequence[str], context: int) -> CLIPTokenizer:
    """Build a CLIP byte-pair tokenizer in which each of `words` is one token and any other text is spelt in bytes.

    Args:
        words: Lower-case words. A word takes what merges of earlier words fit it and joins the rest left to right, so
            no word breaks an earlier one.
        context: Tokens of a prompt, with the start and end marks.
    """
    symbols = byte_symbols()
    vocabulary = [*symbols, *(symbol + WORD_END for symbol in symbols)]
    merges: dict[tuple[str, str], int] = {}
    for word in dict.fromkeys(words):
        pieces = _spelt(word, merges)
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
            vocabulary.append(pieces[0] + pieces[1])
            pieces = _spelt(word, merges)
    table = {symbol: index for index, symbol in enumerate(dict.fromkeys([*vocabulary, START, END]))}
    return CLIPTokenizer(
        vocab=table,
        merges=list(merges),  # pyright: ignore[reportArgumentType] - pairs are what its fast tokenizer takes
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=context,
    )


def _spelt(word: str, merges: Mapping[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: of all pairs that may be merged, the one listed first is, until none is left."""
    pieces = [*word[:-1], word[-1] + WORD_END]
    while True:
        listed = [(merges[pair], place) for place, pair in enumerate(itertools.pairwise(pieces)) if pair in merges]
        if not listed:
            return pieces
        _, place = min(listed)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]


def build_text_encoder(
    tokenizer: CLIPTokenizer, seed: int, position_scale: float, width: int
) -> CLIPTextModelWithProjection:
    """Build a frozen random CLIP text encoder whose outputs tell prompts apart.

    The usual initialisation (standard deviation 0.02) makes all pooled outputs nearly equal. Here embeddings have unit
    scale and every matrix keeps the scale of its input (standard deviation 1/sqrt(fan in)), so one changed word changes
    the pooled output by about its own length.

    Args:
        tokenizer: Gives the vocabulary, the length, and the end mark whose position is pooled.
        seed: Seeds the weights.
        position_scale: Standard deviation of the position embeddings; that of the word embeddings is 1.
        width: Channels, even. The wider, the more products of words and places are linear in the output.
    """
    marks = tokenizer.get_vocab()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=marks[START],
        eos_token_id=marks[END],
        pad_token_id=marks[END],
    )
    encoder = CLIPTextModelWithProjection(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "embedding" in name:
                scale = position_scale if "position" in name else 1.0
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 2:  # noqa: PLR2004 - a matrix
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return encoder.eval().requires_grad_(False)


def grid_positions(side: int, width: int) -> Float[Tensor, "n d"]:
    """Position embeddings of a square grid, row by row: `sin(w p), cos(w p)` of column, then row, p from 1/2.

    The frequencies w fall geometrically from pi, where neighbours have opposite signs, to pi / side, half a period over
    the grid, so that every channel tells places apart.

    Args:
        side: Tokens in a row, n = side x side.
        width: Channels d, a multiple of 4, at least 8.
    """
    frequencies = math.pi * torch.logspace(0, -1, width // 4, base=side)
    angles = (torch.arange(side) + 0.5).unsqueeze(1) * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([line.repeat(side, 1), line.repeat_interleave(side, dim=0)], dim=1)


def build_tiny_pipeline(
    words: Sequence[str], codec: PixelCodec | PatchCodec, architecture: Architecture, *, seed: int
) -> StableDiffusion3Pipeline:
    """Build an untrained pipeline.

    Args:
        words: Words that become tokens of their own.
        codec: The image codec; its latents are as `architecture` says.
        architecture: Sizes.
        seed: Seeds the text encoders and the transformer.
    """
    tokenizer, tokenizer_2 = (build_tokenizer(words, architecture.context) for _ in range(2))
    text = (architecture.position_scale, architecture.text_width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=architecture.latent_side,
            patch_size=architecture.patch,
            in_channels=architecture.latent_channels,
            out_channels=architecture.latent_channels,
            num_layers=architecture.layers,
            attention_head_dim=architecture.head_width,
            num_attention_heads=HEADS,
            joint_attention_dim=2 * architecture.text_width,
            caption_projection_dim=architecture.width,
            pooled_projection_dim=2 * architecture.text_width,
            pos_embed_max_size=architecture.latent_side // architecture.patch,
            qk_norm="rms_norm",
        )
        if architecture.grid_frequencies:
            table = grid_positions(architecture.latent_side // architecture.patch, architecture.width)
            cast("Tensor", transformer.pos_embed.pos_embed).copy_(table.unsqueeze(0))
        return StableDiffusion3Pipeline(
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=codec,  # pyright: ignore[reportArgumentType] - AutoencoderKL's methods, no common base
            text_encoder=build_text_encoder(tokenizer, seed + 1, *text),
            tokenizer=tokenizer,
            text_encoder_2=build_text_encoder(tokenizer_2, seed + 2, *text),
            tokenizer_2=tokenizer_2,
            text_encoder_3=None,  # pyright: ignore[reportArgumentType] - SD3 without T5
            tokenizer_3=None,  # pyright: ignore[reportArgumentType] - SD3 without T5
        )
