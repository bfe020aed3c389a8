"""The tiny SD3 pipeline built from code."""

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.data.digits.prompts import DIGIT_PROMPTS, DIGIT_WORDS
from advdmd_ray.models.codec import PatchCodec, PixelCodec
from advdmd_ray.models.pipeline import load_transformer, save_pipeline
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.models.tiny import (
    DIGITS,
    SHAPES,
    build_tiny_pipeline,
    build_tokenizer,
    byte_symbols,
    grid_positions,
)

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


@pytest.mark.parametrize(("side", "width"), [(2, 8), (6, 96), (9, 32)])
def test_positions_on_the_grid_have_one_length_and_neighbours_differ(side: int, width: int) -> None:
    table = grid_positions(side, width)
    assert table.shape == (side**2, width)
    assert table.square().sum(dim=1) == pytest.approx(torch.full((side**2,), width / 2.0).tolist(), rel=1e-5)
    alike = table @ table.T * 2 / width
    alike.fill_diagonal_(0)
    assert float(alike.max()) < 0.75, "of two places no two embeddings point the same way"


def test_positions_are_row_by_row() -> None:
    rows = grid_positions(4, 16).unflatten(0, (4, 4))
    column, row = rows[..., :8], rows[..., 8:]
    assert torch.equal(column, column[:1].expand_as(column)), "the first half tells the column alone"
    assert torch.equal(row, row[:, :1].expand_as(row)), "the second half tells the row alone"


def test_a_pipeline_folder_keeps_the_positions_it_was_built_with(tmp_path: Path) -> None:
    save_pipeline(build_tiny_pipeline(["a"], PatchCodec(), SHAPES, seed=0), tmp_path / "shapes")
    kept = load_transformer(tmp_path / "shapes").state_dict()["pos_embed.pos_embed"]
    assert torch.equal(kept[0], grid_positions(SHAPES.latent_side, SHAPES.width))
