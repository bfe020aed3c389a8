"""Validation prompts: the same noise at every version, whole pictures, and means over all images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.evaluation.pictures.sheet import read_sheet
from advdmd_ray.evaluation.scorers import Scorer
from advdmd_ray.evaluation.validation import COLUMNS, StudentValidation

PROMPTS, IMAGES = COLUMNS + 3, 2
TEXTS = tuple(f"prompt {number}" for number in range(PROMPTS))


def validation(folder: Path, **changed: object) -> StudentValidation:
    """Of prompts whose encoded row is their number."""

    def number(images: Tensor, prompts: Sequence[str]) -> list[int]:
        """Of the prompt, which the student has painted into the image as a grey."""
        asked = [TEXTS.index(prompt) for prompt in prompts]
        np.testing.assert_allclose(images[:, 1, 0, 0], [each / 100 + 0.5 for each in asked], atol=1e-5)
        return asked

    parts = {
        "texts": TEXTS,
        "prompts": Conditioning(torch.zeros(PROMPTS, 1, 1), torch.arange(float(PROMPTS))[:, None]),
        "decode": lambda latents: latents,
        "scorers": (Scorer("scorers.names", "a.module:number", number),),
        "images": IMAGES,
        "seed": 7,
        "sizes": 1,
        "path": lambda version, place: folder / f"{version}-{place}.png",
        "thin": lambda: None,
    }
    return StudentValidation(**{**parts, **changed})


class Painter:
    """Paints the number of the prompt; remembers the noise that it is asked to begin with."""

    def __init__(self) -> None:
        self.noise = list[Tensor]()
        self.sizes = list[tuple[int, list[float]]]()

    def __call__(self, conditioning: Conditioning, seeds: Sequence[int], size: int) -> Tensor:
        assert len(seeds) == len(conditioning)
        self.noise.append(group_noise((1, 8, 8), seeds, "initial"))
        self.sizes.append((size, conditioning.pooled[:, 0].tolist()))
        return (conditioning.pooled[:, 0] / 50).reshape(-1, 1, 1, 1).expand(-1, 1, 8 + 4 * size, 8)


def test_every_version_draws_every_prompt_from_the_same_noise_and_no_two_images_share_it(tmp_path: Path) -> None:
    first, second = Painter(), Painter()
    validation(tmp_path).drawn(1, "student", first)
    validation(tmp_path).drawn(9, "student", second)
    before, after = torch.cat(first.noise), torch.cat(second.noise)
    assert torch.equal(before, after)
    assert len(before) == PROMPTS * IMAGES == len({tuple(each.flatten().tolist()) for each in before})
    other = Painter()
    validation(tmp_path, seed=8).drawn(1, "student", other)
    assert not torch.equal(before, torch.cat(other.noise))


def test_an_image_hangs_on_its_prompts_place_alone_and_not_on_how_many_there_are(tmp_path: Path) -> None:
    one, two = Painter(), Painter()
    validation(tmp_path, images=1).drawn(1, "student", one)
    validation(tmp_path, images=2).drawn(1, "student", two)
    assert torch.equal(one.noise[0], two.noise[0][:COLUMNS])


def test_the_score_is_the_mean_over_all_images_and_every_prompt_is_shown_once_a_row(tmp_path: Path) -> None:
    came = validation(tmp_path).drawn(5, "student, cycle 5", Painter())
    assert came.scores == {"number": pytest.approx(np.mean(range(PROMPTS)))}
    assert came.pictures == (str(tmp_path / "5-0.png"), str(tmp_path / "5-1.png"))
    sheets = [read_sheet(Path(path)) for path in came.pictures]
    assert [(sheet.prompts, sheet.rows[0].label, sheet.rows[0].lines) for sheet in sheets if sheet] == [
        (TEXTS[:COLUMNS], "student, cycle 5", IMAGES),
        (TEXTS[COLUMNS:], "student, cycle 5", IMAGES),
    ]


def test_prompts_take_turns_in_the_sizes_that_images_have_and_are_all_scored(tmp_path: Path) -> None:
    painter = Painter()
    came = validation(tmp_path, sizes=2, images=1).drawn(5, "student", painter)
    assert came.scores == {"number": pytest.approx(np.mean(range(PROMPTS)))}
    assert all(number % 2 == size for size, numbers in painter.sizes for number in numbers)
    assert sorted(number for _, numbers in painter.sizes for number in numbers) == [*range(PROMPTS)]
    sheet = read_sheet(Path(came.pictures[0]))
    assert sheet is not None
    assert sheet.width / sheet.height == pytest.approx(8 / 12)


def test_a_picture_that_the_disk_refuses_is_a_warning_and_the_scores_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    came = validation(tmp_path / "file").drawn(5, "student", Painter())
    assert (came.pictures, set(came.scores)) == ((), {"number"})
    assert "no picture of validation 5 (" in caplog.text
