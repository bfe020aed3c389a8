"""`python -m benchmarks.selection`."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from advdmd_ray.data.shapes.scene import RELATIONS
from advdmd_ray.data.shapes.skills import SKILLS, all_prompts
from advdmd_ray.diffusion.denoiser import Conditioning
from benchmarks import selection
from benchmarks.selection import Choice, choice
from estimator_field import Linear, field
from small_parts import SHAPE, Brightness, normal


def test_of_one_prompt_the_best_by_score_are_chosen_and_the_right_ones_are_the_ceiling() -> None:
    truth = torch.tensor([1.0, 0.25, 1.0, 0.5, 0.0])
    final = torch.tensor([4.0, 5.0, 3.0, 1.0, 2.0])
    found = choice(torch.stack([truth, final], dim=1), truth, best=2)
    assert (found.right, found.chosen, found.ceiling) == (0.4, 0.5, 1.0)
    assert choice(final[:, None], truth, best=4).ceiling == 0.5
    # Of nine pairs that differ in truth, the final score orders five alike.
    assert found.agreement.tolist() == pytest.approx([1.0, 5 / 9])


@pytest.mark.parametrize(("gain", "chosen"), [(1.0, 1.0), (-1.0, 0.0)])
def test_a_discriminator_of_the_checkers_taste_chooses_what_is_right_and_one_of_the_opposite_what_is_not(
    gain: float, chosen: float
) -> None:
    place = field(Linear(torch.zeros(SHAPE)), Brightness(gain))
    place = replace(place, oracle=replace(place.oracle, score=lambda images, _: (images.mean((1, 2, 3)) > 0).float()))
    table, asked = place.setting.table, list[int]()

    def draw(said: Conditioning, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        assert len(said) == len(seeds) == len(set(seeds)) == 6
        asked.append(seeds[0])
        brighter = torch.tensor([3.0, -3.0, 2.0, -2.0, -4.0, -5.0]).reshape(6, 1, 1, 1)
        return torch.stack([normal(6, *SHAPE, seed=1), brighter.expand(6, *SHAPE)], dim=1), torch.tensor([1.0, 0.0])

    found = list(selection.choices(place, draw, table, of=6, best=2))
    assert len(found) == len(table.texts) == len(set(asked))
    for one in found:
        assert (one.right, one.chosen, one.ceiling) == (pytest.approx(1 / 3), chosen, 1.0)
        assert one.agreement.tolist() == [chosen]


def test_the_student_is_scored_at_every_level_and_the_teacher_at_its_last() -> None:
    place = field(Linear(torch.zeros(SHAPE)), Brightness())
    drawn = {name: draw(place.setting.table.of(0, 3), [1, 2, 3]) for name, draw in selection.samplers(place, 0).items()}
    latents, levels = drawn[f"student, {place.setting.sigmas.numel() - 1} steps"]
    assert len(drawn) == 1
    assert latents.shape == (3, levels.numel(), *SHAPE)
    assert list(selection.samplers(place, 40))[1:] == ["teacher, 40 steps"]


def test_every_skill_is_asked_with_seen_prompts_and_with_held_out_ones_by_themselves() -> None:
    asked = selection.asked(5)
    assert [name for name in asked if "held out" not in name] == [skill.replace("_", " ") for skill in SKILLS]
    for name, prompts in asked.items():
        assert 1 <= len(prompts) == len({prompt.text for prompt in prompts}) <= 5
        assert {prompt.held_out for prompt in prompts} == {"held out" in name}
    assert sum(map(len, selection.asked(10**6).values())) == len(all_prompts())
    assert {prompt.relation for prompt in selection.asked(12)["position"]} == set(RELATIONS)
    assert selection.asked(5) == asked


def test_a_row_has_means_over_prompts_and_their_errors_and_leaves_out_what_no_pair_tells() -> None:
    nan, tensor = float("nan"), torch.tensor
    found = [Choice(0.25, 0.5, 1.0, tensor([0.5, nan])), Choice(0.75, 0.5, 1.0, tensor([0.7, nan]))]
    assert selection.summary(found) == "50.0 ± 25.0 % | 50.0 ± 0.0 % | 100.0 ± 0.0 % | 0.60 ± 0.10, -"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--of", "6", "--best", "6"], "--best must be at least 1 and less than --of, got 6 of 6"),
        (["--prompts", "0"], "--prompts must be 1 or more and --teacher-steps 0 or more, got 0 and 0"),
        ([], "there is no folder nowhere; give one of a checkpoint, of a run or of a comparison's job"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert selection.main(["nowhere", *arguments]) == selection.BAD_INPUT
    assert capsys.readouterr().err == f"selection: {told}\n"
