"""The judge that knows no prompt: what it notices, and what it leaves alone."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.captioned_source import spread_out
from advdmd_ray.data.files.encoding import write_latents
from advdmd_ray.data.teacher_samples.plan import plan_samples
from advdmd_ray.data.teacher_samples.source import TeacherSamplesSource
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.thumbnails import LEAST_IMAGES, ThumbnailJudge, _colours, thumbnails

PROMPTS = ("one", "two", "three")


def _images(count: int, seed: int, *, spread: float = 0.3, shift: float = 0.0) -> Tensor:
    """Pictures of four flat quarters."""
    generator = torch.Generator().manual_seed(seed)
    quarters = spread * torch.randn(count, 3, 2, 2, generator=generator) + shift
    return torch.nn.functional.interpolate(quarters, size=(32, 48), mode="nearest")


JUDGE = ThumbnailJudge(PROMPTS, thumbnails(_images(300, 0)))


def _score(images: Tensor) -> dict[str, float]:
    return dict(JUDGE.score(JUDGE.features(images), torch.arange(len(images)) % 3).figures)


def test_images_like_the_real_ones_are_near_them_as_varied_and_all_over_them() -> None:
    alike, ceiling = _score(_images(240, 1)), JUDGE.ceiling().figures
    assert alike["frechet"] < 12
    assert alike["diversity"] == pytest.approx(1.0, abs=0.1)
    assert alike["coverage"] > 0.9
    assert ceiling["frechet"] < 40
    assert ceiling["diversity"] == pytest.approx(1.0, abs=0.1)


@given(shift=st.floats(0.1, 0.6))
def test_colours_that_drift_are_a_distance_that_grows(shift: float) -> None:
    nearer, farther = (_score(_images(120, 1, shift=amount))["frechet"] for amount in (shift / 2, shift))
    assert farther > nearer > 0
    assert farther > 0.8 * (50 * shift) ** 2


@given(share=st.floats(0.1, 0.7))
def test_images_that_grow_alike_lose_diversity_and_coverage(share: float) -> None:
    collapsed = _score(_images(120, 1, spread=0.3 * share))
    assert collapsed["diversity"] == pytest.approx(share, rel=0.2)
    same = _score(_images(1, 1).expand(120, -1, -1, -1))
    assert same["diversity"] == pytest.approx(0, abs=1e-6)
    assert same["coverage"] < 0.5


def test_real_images_that_lie_sorted_are_compared_with_as_a_whole() -> None:
    real = torch.cat([_images(200, 3, shift=-0.5), _images(200, 4, shift=0.5)])
    judge = ThumbnailJudge(PROMPTS, thumbnails(real))
    mixed = torch.cat([_images(30, 5, shift=-0.5), _images(30, 6, shift=0.5)])
    one_kind = judge.score(thumbnails(_images(60, 5, shift=-0.5)), torch.arange(60) % 3).figures
    both = judge.score(thumbnails(mixed), torch.arange(60) % 3).figures
    assert both["coverage"] > 0.85
    assert one_kind["coverage"] < 0.65
    assert both["diversity"] == pytest.approx(1.0, abs=0.15)
    assert one_kind["diversity"] < 0.75


def test_a_picture_that_stands_there_twice_is_compared_with_or_held_out_in_both_rows() -> None:
    real = thumbnails(_images(50, 3))
    judge = ThumbnailJudge(PROMPTS, torch.cat([real, real.flip(0)]))
    held, compared = ({tuple(row) for row in part.tolist()} for part in (_colours(judge._held_out), judge._real))
    assert len(held) + len(compared) == 50
    assert 5 <= len(held) <= 25
    assert not held & compared


@pytest.mark.parametrize(
    ("samples", "judge_samples", "asked"), [(20, 20, 10), (1000, 20, 10), (50, 60, 25), (200, 1000, 50)]
)
def test_so_few_prompts_are_judged_that_every_judgement_of_a_run_has_two_images_of_each(
    tmp_path: Path, samples: int, judge_samples: int, asked: int
) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(80)))
    data = {"source": "teacher_samples", "prompts": str(tmp_path / "prompts.txt"), "teacher_samples": 1}
    evaluation = {"samples": samples, "judge_samples": judge_samples}
    config = Config.model_validate({"data": {**data, "cache": str(tmp_path)}, "evaluation": evaluation})
    source = TeacherSamplesSource(config)
    (plan,) = plan_samples(config, source.prompts())
    generator = torch.Generator().manual_seed(0)
    plan.folder.mkdir()
    for shard in range(plan.shards):
        latents = torch.randn(len(plan.rows(shard)), *plan.latent_shape, generator=generator)
        names = [str(row) for row in plan.rows(shard)]
        batch = names, [plan.prompts[row] for row in plan.rows(shard)], latents, thumbnails(latents)
        write_latents(plan.file(shard), plan.latent_shape, iter([batch]))
    judge = source.judge()
    assert len(judge.prompts) == asked
    fewest = min(samples, judge_samples)
    assert judge.score(thumbnails(_images(fewest, 1)), torch.arange(fewest) % asked).images == fewest


@given(st.integers(1, 300), st.integers(1, 60))
def test_judged_prompts_are_taken_from_the_whole_list_and_each_once(count: int, most: int) -> None:
    prompts = tuple(f"prompt {place}" for place in range(count))
    chosen = spread_out(prompts, most)
    places = [prompts.index(prompt) for prompt in chosen]
    assert len(chosen) == min(count, most)
    assert places == sorted(set(places))
    gaps = [after - before for before, after in zip(places, [*places[1:], count], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_values_outside_the_range_are_clipped() -> None:
    bright = torch.ones(20, 3, 8, 8)
    assert torch.equal(thumbnails(5 * bright), bright)


@pytest.mark.parametrize("count", [0, LEAST_IMAGES - 1])
def test_too_few_real_images_are_refused(count: int) -> None:
    with pytest.raises(
        UserError, match=f"{count} real images can be used, and the judge compares with at least {LEAST_IMAGES}"
    ):
        ThumbnailJudge(PROMPTS, thumbnails(_images(max(count, 1), 0))[:count])


def test_one_image_of_each_prompt_says_nothing_of_variety() -> None:
    with pytest.raises(ValueError, match="no prompt has two images"):
        JUDGE.score(thumbnails(_images(3, 1)), torch.arange(3))
