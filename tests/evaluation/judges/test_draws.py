"""The contract of the judges, and how samplers are judged."""

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.data.digits.prompts import DIGIT_PROMPTS
from advdmd_ray.data.registry import source_of
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.schedule import teacher_sigmas
from advdmd_ray.diffusion.seeds import derive_seed, group_noise
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.contract import Figure, Judge, JudgeScore, signed_headline
from advdmd_ray.evaluation.judges.draws import StudentJudge, draw_images, judge_sampler, portions
from advdmd_ray.runs.judgement import shown_images


class Shade:
    """Wants the image of prompt `n` to have the value n / 10 everywhere."""

    name = "shade"
    prompts: tuple[str, ...] = ("0", "1", "2")
    figures = (Figure("error", "error", "lower", share=False),)
    headline = "error"

    @staticmethod
    def features(images: torch.Tensor) -> torch.Tensor:
        assert images.ndim == 4
        return images.mean(dim=(1, 2, 3))

    def score(self, features: torch.Tensor, rows: torch.Tensor) -> JudgeScore:
        return JudgeScore({"error": float((features - rows / 10).abs().max())}, len(features))

    def ceiling(self) -> JudgeScore:
        return JudgeScore({"error": 0.0}, 3)


def encode(prompts: Sequence[str]) -> Conditioning:
    values = torch.tensor([float(prompt) for prompt in prompts])
    return Conditioning(embeds=torch.zeros(len(values), 1, 1), pooled=values[:, None])


def towards_prompt(x: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """The velocity whose prediction of the image is a hundred times too small for the judge."""
    target = conditioning.pooled.view(-1, 1, 1, 1) / 1000
    return (x - target) / t.view(-1, 1, 1, 1)


@pytest.mark.parametrize("samples", [2, 3, 7])
def test_a_sampler_is_judged_on_decoded_images_of_the_judges_own_prompts(samples: int) -> None:
    score = judge_sampler(
        Shade(),
        towards_prompt,
        encode,
        Kernel.ode(),
        teacher_sigmas(2, 1.0),
        (1, 2, 2),
        lambda latents: latents * 100,
        samples=samples,
        seed=3,
    )
    assert score.images == samples
    assert score.figures["error"] == pytest.approx(0, abs=1e-3)


@given(samples=st.integers(1, 30), most=st.integers(1, 12))
def test_portions_have_every_image_once_and_in_order(samples: int, most: int) -> None:
    cut = portions(samples, most)
    assert list(itertools.chain(*cut)) == list(range(samples))
    assert all(len(portion) == most for portion in cut[:-1])


def test_samples_do_not_depend_on_who_draws_them_and_are_balanced() -> None:
    prompts = Conditioning(embeds=torch.randn(5, 2, 3), pooled=torch.randn(5, 3))

    def denoiser(x: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return x * t.view(-1, 1, 1, 1) + conditioning.pooled.mean(dim=1).view(-1, 1, 1, 1)

    sigmas = teacher_sigmas(3, 1.0)

    def draw(conditioning: Conditioning, seeds: Sequence[int], size: int) -> torch.Tensor:
        assert size == 0
        return sample(
            denoiser, conditioning, Kernel("renoise"), sigmas, group_noise((1, 2, 2), seeds, "initial"), seeds
        )

    parts, whole = (
        [next(draw_images(draw, prompts, portion, 1)) for portion in reversed(portions(20, size))] for size in (7, 20)
    )
    assert torch.allclose(torch.cat([drawn.latents for drawn in reversed(parts)]), whole[0].latents, atol=1e-6)
    assert torch.bincount(whole[0].rows).tolist() == [4] * 5


def test_of_several_sizes_each_prompt_is_drawn_in_its_own_with_the_seed_of_its_image() -> None:
    prompts = Conditioning(embeds=torch.zeros(6, 2, 3), pooled=torch.arange(6.0)[:, None])

    def draw(conditioning: Conditioning, seeds: Sequence[int], size: int) -> torch.Tensor:
        assert (conditioning.pooled[:, 0] % 3 == size).all()
        return torch.stack([torch.full((1, 2 + size, 4), float(seed % 1000)) for seed in seeds])

    drawn = [*draw_images(draw, prompts, range(4, 15), 7, sizes=3)]
    assert [part.latents.shape[2] for part in drawn] == [2, 3, 4]
    assert sorted(index for part in drawn for index in part.images) == [*range(4, 15)]
    for part in drawn:
        assert part.rows.tolist() == [index % 6 for index in part.images]
        seeds = [derive_seed(7, "judge", index) % 1000 for index in part.images]
        assert part.latents[:, 0, 0, 0].tolist() == seeds


def test_a_student_is_judged_with_the_draws_of_the_final_judgement_and_a_headline_that_is_better_when_higher() -> None:
    asked: list[tuple[list[int], list[int]]] = []

    def draw(conditioning: Conditioning, seeds: Sequence[int], size: int) -> torch.Tensor:
        assert size == 0
        asked.append((conditioning.pooled[:, 0].int().tolist(), list(seeds)))
        return conditioning.pooled.view(-1, 1, 1, 1) / 1000 + 0.001

    student = StudentJudge(Shade(), encode(Shade.prompts), lambda latents: latents * 100, samples=5, seed=3)
    first, second = student.judged(draw), student.judged(draw)
    assert first == second
    assert first.score.images == 5
    assert first.headline == pytest.approx(-0.1)
    assert asked[0] == asked[1] == ([0, 1, 2, 0, 1], [derive_seed(3, "judge", index) for index in range(5)])


class Ten:
    """A scorer that reads ten times the number of the prompt, and sees the images."""

    def __init__(self, word: str) -> None:
        self.word = word

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        torch.testing.assert_close(images.mean(dim=(1, 2, 3)) - 0.1, torch.tensor([int(each) / 10 for each in prompts]))
        return torch.tensor([10.0 * int(prompt) for prompt in prompts])


def test_means_of_scorers_stand_beside_the_judges_figures_and_one_can_be_the_headline() -> None:
    def draw(conditioning: Conditioning, _seeds: Sequence[int], _size: int) -> torch.Tensor:
        return conditioning.pooled.view(-1, 1, 1, 1) / 1000 + 0.001

    parts = (Shade(), encode(Shade.prompts), lambda latents: latents * 100)
    for headline, value in (("", -0.1), ("ten", 8.0)):
        judge = StudentJudge(*parts, samples=5, seed=3, scorers=(Ten("ten"),), headline=headline)
        said = judge.judged(draw)
        assert said.score.figures == {"error": pytest.approx(0.1), "ten": pytest.approx(8.0)}  # of 0, 1, 2, 0, 1
        assert said.headline == pytest.approx(value)
    with pytest.raises(UserError, match=r"scorers\.names: the judge has a figure called error too; rename the scorer"):
        StudentJudge(*parts, samples=5, seed=3, scorers=(Ten("error"),)).judged(draw)


def test_a_headline_where_higher_is_better_keeps_its_sign() -> None:
    class Praise(Shade):
        figures = (Figure("error", "praise", "higher", share=False),)

    assert signed_headline(Praise(), JudgeScore({"error": 0.25}, 1)) == 0.25
    assert signed_headline(Shade(), JudgeScore({"error": 0.25}, 1)) == -0.25


@pytest.fixture(scope="module", params=["digits", "shapes"])
def judge(request: pytest.FixtureRequest) -> Judge:
    return source_of(Config.model_validate({"data": {"source": request.param}})).judge()


def test_the_source_names_the_judge_and_its_figures_are_what_it_promises(judge: Judge) -> None:
    ceiling = judge.ceiling()
    keys = [figure.key for figure in judge.figures]
    assert judge.name in ("digits", "shapes")
    assert (judge.prompts == DIGIT_PROMPTS) == (judge.name == "digits")
    assert set(ceiling.figures) == set(keys)
    assert len(set(keys)) == len(keys)
    assert judge.headline in keys
    assert all(0 <= ceiling.figures[figure.key] <= 1 for figure in judge.figures if figure.share)


def test_the_shown_images_fill_whole_rounds_of_the_first_prompts() -> None:
    assert shown_images(prompts=10, samples=1000) == list(range(20))
    assert shown_images(prompts=10, samples=15) == list(range(10))
    assert shown_images(prompts=720, samples=720) == list(range(11))
    assert shown_images(prompts=720, samples=1000) == [*range(11), *range(720, 731)]
    # Three samplers below each other: of large images fewer fit.
    assert shown_images(prompts=720, samples=1000, pixels=(512, 512)) == [*range(11), *range(720, 731)]
    assert shown_images(prompts=50, samples=200, pixels=(1024, 1024)) == list(range(7))
    assert shown_images(prompts=50, samples=200, pixels=(4096, 4096)) == [0]
    for prompts, samples in itertools.product((1, 3, 30), (20, 45)):
        columns = Counter(index % prompts for index in shown_images(prompts, samples))
        assert len(set(columns.values())) == 1
