"""The language of the scenes: what is asked for, what is held out, and how it is spelt."""

from collections import Counter

import numpy as np
import pytest

from advdmd_ray.data.shapes.checker import read_scene
from advdmd_ray.data.shapes.scene import COLOURS, RELATIONS, SHAPES
from advdmd_ray.data.shapes.skills import (
    HELD_OUT_PAIRS,
    HELD_OUT_PLACES,
    MAX_FACTS,
    MIN_FACTS,
    SKILLS,
    Phrase,
    ShapePrompt,
    all_prompts,
    prompt_words,
)
from advdmd_ray.data.shapes.training_set import SHARES, draw_images, draw_rows, rows_by_skill
from advdmd_ray.models.tiny import SHAPES as ARCHITECTURE
from advdmd_ray.models.tiny import build_tokenizer

PROMPTS = all_prompts()


def test_every_prompt_has_a_text_of_its_own() -> None:
    assert len({prompt.text for prompt in PROMPTS}) == len(PROMPTS) == 948
    assert {prompt.skill for prompt in PROMPTS} == set(SKILLS)
    assert all_prompts() == PROMPTS


def test_every_word_is_one_token_and_every_prompt_fits_the_context() -> None:
    tokenizer = build_tokenizer(prompt_words(), ARCHITECTURE.context)
    lengths = set()
    for prompt in PROMPTS:
        words = prompt.text.split()
        tokens = tokenizer.tokenize(prompt.text)
        assert tokens == [f"{word}</w>" for word in words]
        lengths.add(len(tokens) + 2)
    assert max(lengths) <= ARCHITECTURE.context


def test_a_prompt_says_what_it_means() -> None:
    for prompt in PROMPTS:
        if prompt.skill == "counting":
            assert len(set(prompt.phrases)) == 1
            continue
        assert all(str(phrase) in prompt.text for phrase in prompt.phrases)
        assert prompt.relation is None or f"{prompt.phrases[0]} {prompt.relation} {prompt.phrases[1]}" in prompt.text
        assert prompt.background is None or prompt.text.endswith(f" on {prompt.background}")


def test_dense_prompts_state_three_to_five_facts() -> None:
    dense = [prompt for prompt in PROMPTS if prompt.skill == "dense"]
    assert {prompt.facts for prompt in dense} == set(range(MIN_FACTS, MAX_FACTS + 1))
    stated = ShapePrompt("x", "dense", (Phrase("circle", "red", "big"), Phrase("cross", "blue")), "above", "gray")
    assert stated.facts == 5


def test_every_shape_is_held_out_equally_often() -> None:
    assert Counter(shape for _, shape in HELD_OUT_PAIRS) == dict.fromkeys(SHAPES, 1)
    assert len({colour for colour, _ in HELD_OUT_PAIRS} & set(COLOURS)) == len(HELD_OUT_PAIRS)
    assert len(set(HELD_OUT_PLACES)) == len(HELD_OUT_PLACES) == 12
    for position in (0, 2):
        assert Counter(place[position] for place in HELD_OUT_PLACES) == dict.fromkeys(SHAPES, 3)
    assert all(first != second and relation in RELATIONS for first, relation, second in HELD_OUT_PLACES)


def test_no_training_prompt_asks_for_what_is_held_out() -> None:
    rows = {int(row) for row in np.concatenate(list(rows_by_skill().values()))}
    for row, prompt in enumerate(PROMPTS):
        named = {(phrase.colour, phrase.shape) for phrase in prompt.phrases}
        held_out = bool(named & set(HELD_OUT_PAIRS)) or prompt.place in HELD_OUT_PLACES
        assert (row in rows) != held_out
        assert prompt.held_out == held_out


def test_every_skill_has_seen_prompts_and_four_have_held_out_ones() -> None:
    assert all(len(rows) >= 12 for rows in rows_by_skill().values())
    held_out = {prompt.skill for prompt in PROMPTS if prompt.held_out}
    assert held_out == {"colours", "position", "binding", "dense"}


def test_a_training_set_may_have_what_no_teacher_was_shown() -> None:
    rows = {int(row) for row in np.concatenate(list(rows_by_skill(held_out=True).values()))}
    assert rows == {*range(len(PROMPTS))}
    drawn = [PROMPTS[row] for row in draw_rows(960, seed=1, held_out=True)]
    assert {prompt.skill for prompt in drawn if prompt.held_out} == {"colours", "position", "binding", "dense"}
    circles = np.asarray([row for row, prompt in enumerate(PROMPTS) if prompt.text == "four circles"] * 20)
    for held_out in (False, True):
        scenes = [read_scene(image) for image in draw_images(circles, 3, held_out=held_out)]
        assert any(item.colour == "green" for scene in scenes for item in scene.items) == held_out


@pytest.mark.parametrize("held_out", [False, True])
def test_every_skill_has_its_share_of_the_training_set(held_out: bool) -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0)
    rows = draw_rows(4000, seed=1, held_out=held_out)
    counts = Counter(PROMPTS[row].skill for row in rows)
    assert counts == {skill: int(4000 * share) for skill, share in SHARES.items()}
    assert np.array_equal(rows, draw_rows(4000, seed=1, held_out=held_out))
    assert not np.array_equal(rows, draw_rows(4000, seed=2, held_out=held_out))
    # In random order: no skill fills the beginning.
    assert len({PROMPTS[row].skill for row in rows[:40]}) == len(SKILLS)


def test_training_images_repeat_with_their_seed() -> None:
    rows = draw_rows(40, seed=0)
    first, again, other = (draw_images(rows, seed) for seed in (0, 0, 1))
    assert first.shape == (len(rows), 3, 24, 24)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
