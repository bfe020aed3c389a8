"""The checker: right on real scenes, wrong as soon as a fact is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from scipy import ndimage

from advdmd_ray.data.shapes.checker import UNKNOWN, Correctness, check, compare, read_scene, score
from advdmd_ray.data.shapes.render import render, render_all
from advdmd_ray.data.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, SIDE, Item, Scene
from advdmd_ray.data.shapes.scenes import draw_scene, draw_scenes
from advdmd_ray.data.shapes.skills import SKILLS, Phrase, ShapePrompt, all_prompts
from advdmd_ray.models.codec import PatchCodec

PROMPTS = all_prompts()
BY_TEXT = {prompt.text: prompt for prompt in PROMPTS}
MIRRORED = {"left of": "right of", "right of": "left of", "above": "above", "below": "below"}
Images = Float[np.ndarray, "n 3 24 24"]

seeds = st.integers(0, 2**32 - 1)
prompts = st.sampled_from(PROMPTS)


def of_skill(skill: str) -> st.SearchStrategy[ShapePrompt]:
    return st.sampled_from([prompt for prompt in PROMPTS if prompt.skill == skill])


def drawn(prompt: ShapePrompt, seed: int) -> Scene:
    return draw_scene(prompt, np.random.default_rng(seed), held_out=True)


def read(*items: Item, background: str = "gray") -> Scene:
    return read_scene(render(Scene(background, items)))


def random_scenes(count: int, seed: int) -> tuple[list[ShapePrompt], Images]:
    asked = [PROMPTS[row] for row in np.random.default_rng(seed).integers(len(PROMPTS), size=count)]
    return asked, render_all(draw_scenes(asked, seed, held_out=True))


def share_right(images: Images, asked: list[ShapePrompt]) -> float:
    return float(np.mean([check(image, prompt).correct for image, prompt in zip(images, asked, strict=True)]))


def test_at_least_99_percent_of_2000_real_scenes_are_right() -> None:
    asked, images = random_scenes(2000, seed=1)
    assert {prompt.skill for prompt in asked} == set(SKILLS)
    assert share_right(images, asked) >= 0.99


def test_noise_blur_and_the_codec_leave_scenes_right() -> None:
    asked, images = random_scenes(800, seed=2)
    noisy = images + 0.1 * np.random.default_rng(0).standard_normal(images.shape).astype(np.float32)
    assert share_right(noisy, asked) >= 0.99
    assert share_right(ndimage.gaussian_filter(images, (0, 0, 0.3, 0.3)), asked) >= 0.99
    codec = PatchCodec.fit(torch.from_numpy(random_scenes(1500, seed=3)[1]), patch=8, components=22, whitening=0.5)
    latents = codec.encode(torch.from_numpy(images), return_dict=False)[0].mode()
    assert share_right(codec.decode(latents, return_dict=False)[0].numpy(), asked) >= 0.99


def test_a_scene_of_another_prompt_is_seldom_right() -> None:
    asked, images = random_scenes(600, seed=4)
    assert share_right(images, asked[1:] + asked[:1]) < 0.02


@given(prompts, seeds)
def test_an_object_too_few_or_too_many_is_wrong(prompt: ShapePrompt, seed: int) -> None:
    scene = drawn(prompt, seed)
    assert compare(scene, prompt) == Correctness(correct=True, facts=1.0)
    fewer = compare(replace(scene, items=scene.items[1:]), prompt)
    assert not fewer.correct
    assert fewer.facts < 1
    more = compare(replace(scene, items=(*scene.items, Item("cross", "red", 6.5, 20.0, 20.0))), prompt)
    assert more == Correctness(correct=False, facts=1.0)


@given(of_skill("binding"), seeds)
def test_a_binding_with_its_colours_swapped_is_all_wrong(prompt: ShapePrompt, seed: int) -> None:
    first, second = prompt.phrases
    swapped = replace(prompt, phrases=(replace(first, colour=second.colour), replace(second, colour=first.colour)))
    image = render(drawn(prompt, seed))
    assert check(image, swapped) == Correctness(correct=False, facts=0.0)
    other = compare(drawn(swapped, seed), prompt)
    assert not other.correct


@given(of_skill("position"), seeds)
def test_left_of_is_the_mirror_of_right_of(prompt: ShapePrompt, seed: int) -> None:
    assert prompt.relation is not None
    image = render(drawn(prompt, seed))
    mirrored = replace(prompt, relation=MIRRORED[prompt.relation])
    verdict = check(image, prompt)
    assert check(np.ascontiguousarray(image[:, :, ::-1]), mirrored) == verdict
    if mirrored.relation != prompt.relation:
        assert not check(image, mirrored).correct


@given(of_skill("position"), seeds)
def test_naming_the_shapes_the_other_way_round_needs_the_opposite_relation(prompt: ShapePrompt, seed: int) -> None:
    scene, first = drawn(prompt, seed), prompt.phrases
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert prompt.relation is not None
    turned = replace(prompt, phrases=first[::-1], relation=opposite[prompt.relation])
    assert compare(scene, turned).correct
    assert compare(scene, replace(turned, relation=prompt.relation)) == Correctness(correct=False, facts=2 / 3)


@given(prompts, seeds, st.integers(-3, 3), st.integers(-3, 3))
def test_a_verdict_does_not_depend_on_where_the_scene_stands(
    prompt: ShapePrompt, seed: int, right: int, down: int
) -> None:
    scene = drawn(prompt, seed)
    moved = replace(scene, items=tuple(replace(item, x=item.x + right, y=item.y + down) for item in scene.items))
    assert compare(moved, prompt) == compare(scene, prompt)


@given(prompts, seeds)
def test_the_order_of_objects_does_not_matter(prompt: ShapePrompt, seed: int) -> None:
    scene = drawn(prompt, seed)
    for other in PROMPTS[:: len(PROMPTS) // 20]:
        assert compare(replace(scene, items=scene.items[::-1]), other) == compare(scene, other)


@given(prompts, seeds)
def test_among_many_crumbs_the_facts_still_hold_but_the_scene_is_wrong(prompt: ShapePrompt, seed: int) -> None:
    scene = drawn(prompt, seed)
    crumbs = tuple(Item(UNKNOWN, "red", 3.0, float(place), 1.0) for place in range(20))
    for items in (scene.items + crumbs, crumbs + scene.items):
        assert compare(replace(scene, items=items), prompt) == Correctness(correct=False, facts=1.0)


@pytest.mark.parametrize("background", sorted(BACKGROUNDS))
def test_a_blank_image_satisfies_no_fact_but_its_background(background: str) -> None:
    blank = render(Scene(background, ()))
    assert read_scene(blank) == Scene(background, ())
    for prompt in PROMPTS:
        facts = 1 / prompt.facts if prompt.background == background else 0.0
        assert compare(Scene(background, ()), prompt) == Correctness(correct=False, facts=facts)
        assert score(blank, prompt) == (facts if prompt.skill == "dense" else 0.0)


@pytest.mark.parametrize("there", [1, 2, 3, 4])
@pytest.mark.parametrize(("wanted", "word"), [(2, "two"), (3, "three"), (4, "four")])
def test_objects_are_counted(there: int, wanted: int, word: str) -> None:
    places = [(6.0, 6.0), (18.0, 6.0), (6.0, 18.0), (18.0, 18.0)]
    colours = ("red", "red", "blue", "cyan")
    items = [Item("cross", colour, 7.0, *place) for colour, place in zip(colours, places, strict=True)]
    image = render(Scene("white", tuple(items[:there])))
    prompt = BY_TEXT[f"{word} crosses"]
    assert check(image, prompt) == Correctness(correct=there == wanted, facts=min(there, wanted) / wanted)
    assert not check(image, BY_TEXT[f"{word} circles"]).correct


DENSE = ShapePrompt(
    "a big red circle left of a small blue cross on gray",
    "dense",
    (Phrase("circle", "red", "big"), Phrase("cross", "blue", "small")),
    "left of",
    "gray",
)
CIRCLE, CROSS = Item("circle", "red", 6.5, 6.0, 12.0), Item("cross", "blue", 4.0, 18.0, 12.0)


@pytest.mark.parametrize(
    ("scene", "held"),
    [
        (Scene("gray", (CIRCLE, CROSS)), 6),
        (Scene("white", (CIRCLE, CROSS)), 5),
        (Scene("gray", (replace(CIRCLE, side=4.0), CROSS)), 5),
        (Scene("gray", (replace(CIRCLE, x=18.0), replace(CROSS, x=6.0))), 5),
        (Scene("gray", (replace(CIRCLE, shape="square"), CROSS)), 3),
        (Scene("gray", (replace(CIRCLE, colour="green"), CROSS)), 3),
        (Scene("gray", (CROSS,)), 3),
        (Scene("black", (replace(CIRCLE, colour="green"),)), 0),
    ],
)
def test_each_fact_counts_once(scene: Scene, held: int) -> None:
    assert DENSE.facts == 6
    expected = Correctness(correct=held == 6, facts=held / 6)
    assert compare(scene, DENSE) == expected
    assert check(render(scene), DENSE) == expected
    assert score(render(scene), DENSE) == held / 6
    assert score(render(scene), replace(DENSE, skill="binding")) == float(held == 6)


@given(prompts, seeds)
def test_what_is_read_is_what_was_drawn(prompt: ShapePrompt, seed: int) -> None:
    scene = drawn(prompt, seed)
    found = read_scene(render(scene))
    assert found.background == scene.background
    assert sorted((item.shape, item.colour, item.size) for item in found.items) == sorted(
        (item.shape, item.colour, item.size) for item in scene.items
    )
    for item in scene.items:
        nearest = min(found.items, key=lambda other: abs(other.x - item.x) + abs(other.y - item.y))
        assert abs(nearest.x - item.x) < 0.3
        assert abs(nearest.y - item.y) < 0.3
        assert abs(nearest.side - item.side) < 0.3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_touching_objects_of_one_colour_are_one_of_no_shape(shape: str, colour: str) -> None:
    first, second = Item(shape, colour, 7.0, 7.0, 12.0), Item(shape, colour, 7.0, 13.5, 12.0)
    assert [item.shape for item in read(first, second).items] == [UNKNOWN]
    apart = read(first, replace(second, x=15.5)).items
    assert [item.shape for item in apart] == [shape, shape]
    other = "red" if colour != "red" else "blue"
    touching = read(first, replace(second, x=14.0, colour=other)).items
    assert sorted(item.colour for item in touching) == sorted([colour, other])
    assert {item.shape for item in touching} == {shape}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_the_edge_cuts_in_half_has_no_shape(shape: str) -> None:
    whole = Item(shape, "green", 9.0, 12.0, 12.0)
    assert read(replace(whole, x=4.0)).items[0].shape == shape
    assert [item.shape for item in read(replace(whole, x=0.0)).items] == [UNKNOWN]
    assert [item.shape for item in read(replace(whole, x=float(SIDE))).items] == [UNKNOWN]


def test_specks_are_no_objects_and_blobs_are_of_no_shape() -> None:
    image = render(Scene("black", (CIRCLE,)))
    image[:, 20:22, 20:22] = np.array([-1.0, -1.0, 1.0])[:, None, None]
    assert [item.shape for item in read_scene(image).items] == ["circle"]
    image[:, 20:22, 12:22] = np.array([-1.0, -1.0, 1.0])[:, None, None]
    assert [(item.shape, item.colour) for item in read_scene(image).items] == [("circle", "red"), (UNKNOWN, "blue")]


def test_values_beyond_the_range_are_clipped() -> None:
    image = render(Scene("gray", (CIRCLE, CROSS)))
    beyond = np.where(abs(image) == 1, 3 * image, image)
    assert read_scene(beyond) == read_scene(image)
