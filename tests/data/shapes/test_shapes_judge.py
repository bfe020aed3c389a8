"""The judge of shapes: a fixed and balanced list of prompts, real scenes are perfect, and every way to cheat costs."""

import time
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from advdmd_ray.data.shapes.judge import HELD_OUT_SKILLS, ShapesJudge, judge_prompts, real_scenes
from advdmd_ray.data.shapes.skills import SKILLS, all_prompts
from advdmd_ray.runs.judgement import SHOWN_PROMPTS

ROWS = torch.arange(720)


@pytest.fixture(scope="module")
def judge() -> ShapesJudge:
    return ShapesJudge()


@pytest.fixture(scope="module")
def scenes() -> torch.Tensor:
    return torch.from_numpy(real_scenes(judge_prompts(), seed=7))


@pytest.fixture(scope="module")
def figures(judge: ShapesJudge, scenes: torch.Tensor) -> Mapping[str, float]:
    """Of the real scenes."""
    return judge.score(scenes, ROWS).figures


def test_there_are_as_many_prompts_of_each_skill() -> None:
    counts = Counter((prompt.skill, prompt.held_out) for prompt in judge_prompts())
    expected = {(skill, False): 72 for skill in SKILLS} | {(skill, True): 54 for skill in HELD_OUT_SKILLS}
    assert counts == expected
    assert set(HELD_OUT_SKILLS) == {prompt.skill for prompt in all_prompts() if prompt.held_out}
    assert len(set(judge_prompts())) == 360


@pytest.mark.parametrize("length", [20, 50, 200, 333, 720])
def test_every_prefix_has_its_share_of_each_skill(length: int) -> None:
    counts = Counter((prompt.skill, prompt.held_out) for prompt in judge_prompts()[:length])
    for skill in SKILLS:
        assert counts[skill, False] == pytest.approx(length / 10, abs=1)
    for skill in HELD_OUT_SKILLS:
        assert counts[skill, True] == pytest.approx(length * 0.075, abs=1)


def test_the_first_eleven_prompts_try_every_skill_once_seen_and_held_out() -> None:
    assert len({(prompt.skill, prompt.held_out) for prompt in judge_prompts()[:SHOWN_PROMPTS]}) == SHOWN_PROMPTS


def test_real_scenes_are_perfect_as_varied_as_real_and_cover_them(judge: ShapesJudge) -> None:
    ceiling = judge.ceiling()
    assert ceiling.images == 720
    for key in ("seen", "held_out", *SKILLS):
        assert ceiling.figures[key] == pytest.approx(1, abs=0.01)
    assert ceiling.figures["diversity"] == pytest.approx(1, abs=0.05)
    assert ceiling.figures["coverage"] > 0.93


@pytest.mark.parametrize(("count", "noise"), [(20, 0.6), (200, 0.1)])
def test_few_images_are_judged_too(judge: ShapesJudge, scenes: torch.Tensor, count: int, noise: float) -> None:
    figures = judge.score(scenes[:count], ROWS[:count]).figures
    assert figures["seen"] == figures["held_out"] == 1
    assert figures["diversity"] == pytest.approx(1, abs=noise)  # 20 images have few pairs of one prompt
    assert figures["coverage"] > 0.85


def test_scenes_of_other_prompts_follow_no_prompt_but_are_as_varied(judge: ShapesJudge, scenes: torch.Tensor) -> None:
    figures = judge.score(scenes[torch.randperm(720, generator=torch.Generator().manual_seed(0))], ROWS).figures
    assert figures["seen"] < 0.25
    assert figures["binding"] < 0.1
    assert figures["coverage"] > 0.93


def test_one_image_for_every_prompt_is_neither_right_nor_varied(judge: ShapesJudge, scenes: torch.Tensor) -> None:
    figures = judge.score(scenes[:1].expand(720, -1, -1, -1), ROWS).figures
    assert figures["seen"] < 0.1
    assert figures["diversity"] == 0
    assert figures["coverage"] < 0.05


def test_one_right_image_for_each_prompt_is_right_but_not_varied(judge: ShapesJudge, scenes: torch.Tensor) -> None:
    first: dict[str, torch.Tensor] = {}
    same = torch.stack([first.setdefault(text, scene) for text, scene in zip(judge.prompts, scenes, strict=True)])
    figures = judge.score(same, ROWS).figures
    assert figures["seen"] == 1
    assert figures["diversity"] == pytest.approx(0, abs=1e-6)


def test_four_images_of_each_prompt_cover_four_real_ones_only_if_they_differ(
    judge: ShapesJudge, scenes: torch.Tensor, figures: Mapping[str, float]
) -> None:
    rows = ROWS.repeat(4)
    varied = torch.from_numpy(real_scenes(judge_prompts() * 4, seed=7))
    assert judge.score(varied, rows).figures["coverage"] == pytest.approx(figures["coverage"], abs=0.02)
    assert judge.score(scenes.repeat(4, 1, 1, 1), rows).figures["coverage"] < 0.8


def test_spoiling_one_skill_lowers_its_figure_and_the_mean_by_a_seventh(
    judge: ShapesJudge, scenes: torch.Tensor, figures: Mapping[str, float]
) -> None:
    spoilt = scenes.clone()
    spoilt[[prompt.skill == "counting" for prompt in judge_prompts()]] = -1.0
    after = judge.score(spoilt, ROWS).figures
    assert after["counting"] == 0
    assert figures["seen"] - after["seen"] == pytest.approx(1 / 7, abs=1e-6)
    assert after["held_out"] == figures["held_out"]


def test_values_beyond_the_range_are_clipped(judge: ShapesJudge, scenes: torch.Tensor) -> None:
    assert judge.score(1000 * scenes[:30], ROWS[:30]) == judge.score(scenes[:30].sign(), ROWS[:30])


def test_a_set_without_a_skill_is_refused(judge: ShapesJudge, scenes: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="judge at least 20"):
        judge.score(scenes[:5], ROWS[:5])


def test_two_judges_agree_to_the_last_bit_and_take_less_than_three_seconds(
    judge: ShapesJudge, scenes: torch.Tensor
) -> None:
    noisy = scenes + 0.4 * torch.randn(scenes.shape, generator=torch.Generator().manual_seed(0))
    began = time.process_time()
    score = judge.score(noisy, ROWS)
    assert time.process_time() - began < 3 * torch.get_num_threads()
    assert score == ShapesJudge().score(noisy, ROWS)
    assert 0 < score.figures["seen"] < 1
    assert all(np.isfinite(value) for value in score.figures.values())
