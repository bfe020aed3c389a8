"""The tiny Stable Diffusion 3 pipeline, built offline from code with real diffusers and transformers parts."""

from collections.abc import Sequence

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from advdmd_ray.models.codec import PixelCodec
from advdmd_ray.models.diffusers_classes import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

CONTEXT_LENGTH = 8
"""Tokens of a prompt, with the start and end marks."""
TEXT_WIDTH = 32
WIDTH_PER_HEAD = 24
HEADS = 4
LAYERS = 4
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes of byte-level byte-pair encoding (Radford et al. 2019, GPT-2).

    Printable Latin-1 bytes stand for themselves; the others get the code points from 256 upwards, in byte order.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + place) for place in range(len(hidden))]


def build_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """Build a CLIP byte-pair tokenizer in which each of `words` is one token and any other text is spelt in bytes.

    Args:
        words: Lower-case words. Their merges are listed left to right, so a word that begins like an earlier one
            shares its first merges.
    """
    symbols = byte_symbols()
    vocabulary = [*symbols, *(symbol + WORD_END for symbol in symbols)]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        pieces = [*word[:-1], word[-1] + WORD_END]
        left = pieces[0]
        for right in pieces[1:]:
            if (left, right) not in merges:
                merges.append((left, right))
                vocabulary.append(left + right)
            left += right
    table = {symbol: index for index, symbol in enumerate(dict.fromkeys([*vocabulary, START, END]))}
    return CLIPTokenizer(
        vocab=table,
        merges=merges,  # pyright: ignore[reportArgumentType] - pairs are what its fast tokenizer takes
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT_LENGTH,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModelWithProjection:
    """Build a frozen random CLIP text encoder whose outputs tell prompts apart.

    The usual initialisation (standard deviation 0.02) makes all pooled outputs nearly equal. Here embeddings have unit
    scale and every matrix keeps the scale of its input (standard deviation 1/sqrt(fan in)), so one changed word changes
    the pooled output by about its own length.

    Args:
        tokenizer: Gives the vocabulary and the end mark whose position is pooled.
        seed: Seeds the weights.
    """
    marks = tokenizer.get_vocab()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=marks[START],
        eos_token_id=marks[END],
        pad_token_id=marks[END],
    )
    encoder = CLIPTextModelWithProjection(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "embedding" in name:
                scale = 0.3 if "position" in name else 1.0
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 2:  # noqa: PLR2004 - a matrix
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return encoder.eval().requires_grad_(False)


def build_tiny_pipeline(prompts: Sequence[str], *, seed: int) -> StableDiffusion3Pipeline:
    """Build the untrained pipeline for one-channel 8x8 images: 16 image tokens, about 1.2 million parameters.

    Args:
        prompts: Their words become tokens of their own.
        seed: Seeds the text encoders and the transformer.
    """
    words = sorted({word for prompt in prompts for word in prompt.lower().split()})
    tokenizer, tokenizer_2 = build_tokenizer(words), build_tokenizer(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=1,
            out_channels=1,
            num_layers=LAYERS,
            attention_head_dim=WIDTH_PER_HEAD,
            num_attention_heads=HEADS,
            joint_attention_dim=2 * TEXT_WIDTH,
            caption_projection_dim=HEADS * WIDTH_PER_HEAD,
            pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=4,
            qk_norm="rms_norm",
        )
        return StableDiffusion3Pipeline(
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=PixelCodec(),  # pyright: ignore[reportArgumentType] - AutoencoderKL's methods, no common base
            text_encoder=build_text_encoder(tokenizer, seed + 1),
            tokenizer=tokenizer,
            text_encoder_2=build_text_encoder(tokenizer_2, seed + 2),
            tokenizer_2=tokenizer_2,
            text_encoder_3=None,  # pyright: ignore[reportArgumentType] - SD3 without T5
            tokenizer_3=None,  # pyright: ignore[reportArgumentType] - SD3 without T5
        )
