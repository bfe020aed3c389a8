"""Drawn scenes and their rendering."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from advdmd_ray.data.shapes.checker import compare
from advdmd_ray.data.shapes.render import coverage, render, render_all
from advdmd_ray.data.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    RELATION_SLACK,
    RELATIONS,
    SHAPES,
    SIDE,
    SIZES,
    Item,
    Scene,
    related,
)
from advdmd_ray.data.shapes.scenes import CELL, draw_scene, draw_scenes
from advdmd_ray.data.shapes.skills import HELD_OUT_PAIRS, Phrase, ShapePrompt, all_prompts

PROMPTS = all_prompts()
AREA = {"circle": math.pi / 4, "square": 1.0, "triangle": 0.5, "cross": 5 / 9}
"""Of a shape of side 1."""

prompts = st.sampled_from(PROMPTS)
seeds = st.integers(0, 2**32 - 1)
quarters = st.integers(-40, 40).map(lambda n: n / 4)


@given(prompts, seeds, st.booleans())
def test_a_drawn_scene_fits_its_prompt(prompt: ShapePrompt, seed: int, held_out: bool) -> None:
    scene = draw_scene(prompt, np.random.default_rng(seed), held_out=held_out)
    assert compare(scene, prompt).correct
    for item in scene.items:
        assert item.side == SIZES[item.size]
        assert {item.x, item.y} <= {4.0, 12.0, 20.0}, "a shape stands in the middle of a cell"
        assert item.side < CELL
    assert len({(item.x, item.y) for item in scene.items}) == len(scene.items)


def test_training_scenes_never_have_a_held_out_coloured_shape() -> None:
    seen = [prompt for prompt in PROMPTS if not prompt.held_out] * 3
    items = [item for scene in draw_scenes(seen, seed=0) for item in scene.items]
    assert {item.shape for item in items} == set(SHAPES)
    assert not {(item.colour, item.shape) for item in items} & set(HELD_OUT_PAIRS)
    free = [item for scene in draw_scenes(seen, seed=0, held_out=True) for item in scene.items]
    assert {(item.colour, item.shape) for item in free} >= set(HELD_OUT_PAIRS)


def test_the_order_of_the_shapes_in_a_scene_tells_nothing() -> None:
    prompt = next(prompt for prompt in PROMPTS if prompt.text == "a circle left of a cross")
    scenes = draw_scenes([prompt] * 200, seed=0)
    assert 60 < sum(scene.items[0].shape == "circle" for scene in scenes) < 140


def test_what_a_prompt_leaves_open_takes_every_value() -> None:
    prompt = next(prompt for prompt in PROMPTS if prompt.text == "a square")
    scenes = draw_scenes([prompt] * 300, seed=1)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.items[0].colour for scene in scenes} == set(COLOURS) - {"magenta"}
    assert {scene.items[0].size for scene in scenes} == set(SIZES)


def test_a_prompt_of_more_shapes_than_an_image_holds_is_refused() -> None:
    prompt = ShapePrompt("five squares", "counting", (Phrase("square"),) * 5)
    with pytest.raises(ValueError, match="1 to 4 shapes, 'five squares' asks for 5"):
        draw_scene(prompt, np.random.default_rng(0))


@pytest.mark.parametrize("prompt", [prompt for prompt in PROMPTS if prompt.relation], ids=str)
def test_a_drawn_relation_has_no_second_reading(prompt: ShapePrompt) -> None:
    scene = draw_scene(prompt, np.random.default_rng(1), held_out=True)
    first, second = (next(item for item in scene.items if item.shape == phrase.shape) for phrase in prompt.phrases[:2])
    assert [relation for relation in RELATIONS if related(first, relation, second)] == [prompt.relation]


def test_every_place_of_an_image_is_taken_equally_often() -> None:
    prompt = next(prompt for prompt in PROMPTS if prompt.text == "two squares")
    places = Counter((item.x, item.y) for scene in draw_scenes([prompt] * 450, seed=2) for item in scene.items)
    assert len(places) == 9
    assert all(70 < count < 130 for count in places.values())


def test_a_layout_that_cannot_be_found_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advdmd_ray.data.shapes.scenes.RELATIONS", {})
    prompt = next(prompt for prompt in PROMPTS if prompt.relation)
    with pytest.raises(ValueError, match=f"no layout found for '{prompt.text}'"):
        draw_scene(prompt, np.random.default_rng(0))


@given(st.sampled_from(SHAPES), st.floats(6, 10), st.floats(7, 17), st.floats(7, 17))
def test_coverage_sums_to_the_area_of_the_shape(shape: str, side: float, x: float, y: float) -> None:
    covered = coverage(shape, side, x, y)
    assert covered.min() >= 0
    assert covered.max() <= 1
    assert float(covered.sum()) == pytest.approx(AREA[shape] * side**2, rel=0.08)


@given(prompts, seeds)
def test_a_mirrored_scene_is_the_mirrored_image(prompt: ShapePrompt, seed: int) -> None:
    scene = draw_scene(prompt, np.random.default_rng(seed))
    mirrored = replace(scene, items=tuple(replace(item, x=SIDE - item.x) for item in scene.items))
    assert np.allclose(render(mirrored), render(scene)[:, :, ::-1], atol=1e-5)


@given(st.sampled_from(SHAPES), st.integers(-4, 4), st.integers(-4, 4))
def test_a_shape_moved_by_whole_pixels_is_the_moved_image(shape: str, right: int, down: int) -> None:
    moved = coverage(shape, 7.0, 12.25 + right, 11.5 + down)
    assert np.allclose(moved, np.roll(coverage(shape, 7.0, 12.25, 11.5), (down, right), axis=(0, 1)), atol=1e-9)


def test_only_the_triangle_has_an_upper_and_a_lower_side() -> None:
    for shape in SHAPES:
        covered = coverage(shape, 8.0, 12.0, 12.0)
        assert np.allclose(covered, covered[::-1]) == (shape != "triangle")
    triangle = coverage("triangle", 8.0, 12.0, 12.0)
    assert triangle[12:].sum() > 2 * triangle[:12].sum()


@given(st.sampled_from(SHAPES), st.sampled_from(sorted(COLOURS)), st.sampled_from(sorted(BACKGROUNDS)))
def test_the_middle_of_a_shape_has_its_colour_and_the_corner_the_backgrounds(
    shape: str, colour: str, background: str
) -> None:
    image = render(Scene(background, (Item(shape, colour, 9.0, 12.5, 12.5),)))
    assert image.dtype == np.float32
    assert image[:, 12, 12].tolist() == [2 * value - 1 for value in COLOURS[colour]]
    assert image[:, 0, 0].tolist() == [2 * value - 1 for value in BACKGROUNDS[background]]
    assert abs(image).max() <= 1


def test_scenes_are_rendered_in_their_order() -> None:
    scenes = draw_scenes(PROMPTS[:5], seed=4)
    assert np.array_equal(render_all(scenes), np.stack([render(scene) for scene in scenes]))


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'star'"):
        coverage("star", 8.0, 12.0, 12.0)


@given(quarters, quarters, quarters, quarters, quarters, quarters, st.sampled_from(sorted(RELATIONS)))
def test_a_relation_does_not_depend_on_where_in_the_image_it_holds(
    x: float, y: float, x2: float, y2: float, right: float, down: float, relation: str
) -> None:
    first, second = Item("circle", "red", 7.0, x, y), Item("cross", "red", 7.0, x2, y2)
    moved = [replace(item, x=item.x + right, y=item.y + down) for item in (first, second)]
    assert related(first, relation, second) == related(moved[0], relation, moved[1])


@given(quarters, quarters, quarters, quarters)
def test_opposite_relations_hold_together_and_at_most_one_axis_does(x: float, y: float, x2: float, y2: float) -> None:
    first, second = Item("circle", "red", 7.0, x, y), Item("cross", "red", 7.0, x2, y2)
    assert related(first, "left of", second) == related(second, "right of", first)
    assert related(first, "above", second) == related(second, "below", first)
    assume(abs(abs(x - x2) - abs(y - y2)) > RELATION_SLACK)
    assert sum(related(first, relation, second) for relation in RELATIONS) <= 1


def test_relations_mean_what_their_words_say() -> None:
    centre = Item("circle", "red", 7.0, 12.0, 12.0)
    places = {"left of": (4.0, 13.0), "right of": (20.0, 11.0), "above": (13.0, 4.0), "below": (11.0, 20.0)}
    for relation, (x, y) in places.items():
        other = replace(centre, x=x, y=y)
        assert [name for name in RELATIONS if related(other, name, centre)] == [relation]
    assert not any(related(replace(centre, x=10.75), relation, centre) for relation in RELATIONS)
