"""The tiny SD3 pipeline built from code."""

import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.data.digits import DIGIT_PROMPTS, DIGIT_WORDS
from advdmd_ray.models.codec import PixelCodec
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.models.tiny import DIGITS, build_tiny_pipeline, build_tokenizer, byte_symbols

TOKENIZER = build_tokenizer(["a", "handwritten", "seven", "six"], 8)


def test_known_words_are_one_token_each() -> None:
    tokens = TOKENIZER.convert_ids_to_tokens(TOKENIZER("A handwritten seven").input_ids)
    assert tokens == ["<|startoftext|>", "a</w>", "handwritten</w>", "seven</w>", "<|endoftext|>"]


@given(st.lists(st.text("abcdefghxyz", min_size=1, max_size=8), min_size=1, max_size=12, unique=True))
def test_whatever_the_words_are_each_is_one_token(words: list[str]) -> None:
    tokenizer = build_tokenizer(words, 16)
    assert tokenizer.tokenize(" ".join(words)) == [f"{word}</w>" for word in words]
    assert tokenizer.model_max_length == 16


@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, categories=["L", "N"]), min_size=1, max_size=12))
def test_any_word_is_spelt_without_unknown_tokens(word: str) -> None:
    ids = TOKENIZER(word).input_ids[1:-1]
    assert ids
    assert TOKENIZER.unk_token_id not in ids


def test_every_byte_has_its_own_symbol() -> None:
    assert len(set(byte_symbols())) == 256


def test_the_same_seed_builds_the_same_pipeline() -> None:
    first, again, other = (build_tiny_pipeline(DIGIT_WORDS, PixelCodec(), DIGITS, seed=seed) for seed in (1, 1, 2))
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        states = [getattr(pipeline, name).state_dict() for pipeline in (first, again, other)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_building_a_pipeline_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_tiny_pipeline(DIGIT_WORDS, PixelCodec(), DIGITS, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_transformer_is_small(tiny: StableDiffusion3Pipeline) -> None:
    assert sum(parameter.numel() for parameter in tiny.transformer.parameters()) < 1_310_000


def test_all_prompts_and_the_empty_one_are_told_apart(tiny: StableDiffusion3Pipeline) -> None:
    conditioning = encode_prompts(tiny, [*DIGIT_PROMPTS, ""], 8)
    for table in (conditioning.embeds.flatten(1), conditioning.pooled):
        distances = torch.cdist(table, table) + 1e9 * torch.eye(11)
        assert distances.min() > 0.1 * table.norm(dim=1).mean()
