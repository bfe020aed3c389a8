"""What captions say of relations as numbers, and captions to test text encoders with."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.data.shapes.captions import (
    draw_exam,
    draw_lessons,
    facts,
    reversed_relation,
    sides,
    sides_of,
    swapped,
)
from advdmd_ray.data.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES
from advdmd_ray.data.shapes.scenes import draw_scene
from advdmd_ray.data.shapes.skills import HELD_OUT_PAIRS, ShapePrompt, all_prompts

PROMPTS = all_prompts()
EXAM = draw_exam(60, 6)
related_ones = st.sampled_from([prompt for prompt in PROMPTS if prompt.relation is not None])


@given(related_ones, st.integers(0, 2**32 - 1))
def test_sides_are_where_the_shapes_of_a_drawn_scene_stand(prompt: ShapePrompt, seed: int) -> None:
    items = {item.shape: item for item in draw_scene(prompt, np.random.default_rng(seed), held_out=True).items}
    first, second = (items[phrase.shape] for phrase in prompt.phrases[:2])
    said: dict[str, np.ndarray] = dict(zip(SHAPES, sides(prompt).reshape(-1, 2), strict=True))
    assert said[first.shape] @ (first.x - second.x, first.y - second.y) > 0
    assert said[second.shape] @ (second.x - first.x, second.y - first.y) > 0
    assert all(not said[shape].any() for shape in SHAPES if shape not in {first.shape, second.shape})


@given(st.sampled_from(PROMPTS), st.integers(0, 2**32 - 1))
def test_facts_hold_in_every_scene_that_is_drawn_for_the_caption(prompt: ShapePrompt, seed: int) -> None:
    scene = draw_scene(prompt, np.random.default_rng(seed), held_out=True)
    stated = facts(prompt)
    counts, coloured, sized, ground = np.split(stated[8:], np.cumsum([4, 24, 8]))
    assert np.array_equal(stated[:8], sides(prompt))
    assert counts.tolist() == [sum(item.shape == shape for item in scene.items) for shape in SHAPES]
    drawn_colours = [[any((i.shape, i.colour) == (s, c) for i in scene.items) for c in COLOURS] for s in SHAPES]
    drawn_sizes = [[any((i.shape, i.size) == (s, z) for i in scene.items) for z in SIZES] for s in SHAPES]
    assert (coloured.reshape(4, 6) <= drawn_colours).all()
    assert (sized.reshape(4, 2) <= drawn_sizes).all()
    assert (ground <= [scene.background == ground for ground in BACKGROUNDS]).all()
    assert coloured.sum() == len({(p.shape, p.colour) for p in prompt.phrases if p.colour})
    assert sized.sum() == len({(p.shape, p.size) for p in prompt.phrases if p.size})
    assert ground.sum() == (prompt.background is not None)


def test_lessons_have_no_caption_of_an_exam_and_both_orders_of_every_relation() -> None:
    lessons = draw_lessons(3000, 6)
    texts = {prompt.text for prompt in lessons}
    assert texts.isdisjoint(prompt.text for prompt in EXAM)
    dense = [prompt for prompt in lessons if prompt.skill == "dense"]
    assert 3000 <= len(dense) <= 3001
    assert all(swapped(prompt).text in texts for prompt in dense if prompt.relation is not None)
    assert {prompt.text for prompt in PROMPTS if prompt.skill != "dense"} <= texts
    assert lessons == draw_lessons(3000, 6) != draw_lessons(3000, 7)


def test_an_exam_asks_four_versions_of_each_caption_in_the_same_words_but_the_relation() -> None:
    sides_said = sides_of(EXAM)
    for first in range(0, len(EXAM), 4):
        one, turned, opposite, both = EXAM[first : first + 4]
        assert (swapped(one), reversed_relation(one), swapped(opposite)) == (turned, opposite, both)
        assert sorted(one.text.split()) == sorted(turned.text.split())
        assert len({version.text for version in EXAM[first : first + 4]}) == 4
    assert torch.equal(sides_said[::2], -sides_said[1::2])
    assert torch.equal(sides_said[::4], -sides_said[2::4])
    assert len({prompt.text for prompt in EXAM}) == len(EXAM)


@given(st.sampled_from([prompt for prompt in PROMPTS if prompt.relation is not None and prompt.skill == "dense"]))
def test_turning_a_caption_round_twice_gives_it_back(prompt: ShapePrompt) -> None:
    assert swapped(swapped(prompt)) == prompt == reversed_relation(reversed_relation(prompt))
    assert np.array_equal(sides(swapped(prompt)), -sides(prompt))
    assert np.array_equal(sides(reversed_relation(prompt)), -sides(prompt))


def test_an_exam_has_coloured_shapes_that_are_seen_and_placements_of_both_kinds() -> None:
    for prompt in EXAM:
        assert {(phrase.colour, phrase.shape) for phrase in prompt.phrases}.isdisjoint(HELD_OUT_PAIRS)
    assert {prompt.held_out for prompt in EXAM} == {True, False}


def test_what_a_probe_is_fitted_on_is_no_part_of_an_exam() -> None:
    fitted = {prompt.text for prompt in draw_exam(100, 8, fitted=True)}
    assert fitted.isdisjoint(prompt.text for prompt in EXAM)
    assert {*fitted, *(prompt.text for prompt in EXAM)}.isdisjoint(prompt.text for prompt in PROMPTS)


def test_only_dense_captions_with_a_relation_are_turned_round() -> None:
    for prompt in (PROMPTS[0], next(prompt for prompt in PROMPTS if prompt.skill == "position")):
        for turn in (swapped, reversed_relation):
            with pytest.raises(ValueError, match="turned round"):
                turn(prompt)
