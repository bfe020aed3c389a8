"""Where prompts and real images come from: one class for each `data.source`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.config import Config, DataSection
from advdmd_ray.data.digits.images import DIGIT_PROMPTS, load_digits
from advdmd_ray.data.digits.judge import DigitsJudge
from advdmd_ray.data.files.dataset import files_data
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.shapes.judge import ShapesJudge
from advdmd_ray.data.shapes.skills import all_prompts
from advdmd_ray.data.shapes.training_set import draw_images, draw_rows
from advdmd_ray.data.teacher_samples import open_samples, plan_samples
from advdmd_ray.evaluation.judges.contract import Judge
from advdmd_ray.evaluation.judges.thumbnails import ThumbnailJudge

TRAINING_SEED = 20260428
"""Of the shapes' prompt table and real images: the same in every run, as a data set on disk would be."""


@dataclass(frozen=True, slots=True)
class RealPart:
    """Real images of some prompts.

    Attributes:
        pixels: In [-1, 1].
        rows: The row of the prompts that each belongs to.
        images: Which image it is; one image may belong to two rows.
    """

    pixels: Float[Tensor, "n c h w"]
    rows: Int64[Tensor, " n"]
    images: Int64[Tensor, " n"]


class Source(Protocol):
    """A data set of prompts and real images.

    Attributes:
        name: Value of `data.source`.
        prompts: The training prompts, in the order of their ids; one may stand there more than once.
        known: Every prompt that real images can be had for.
    """

    name: str
    prompts: tuple[str, ...]
    known: tuple[str, ...]

    def images(self, texts: Sequence[str]) -> RealPart:
        """Real images of the prompts.

        Args:
            texts: Prompts among `known`; a prompt that stands there twice has images in both rows.
        """
        ...


class DigitsSource:
    """Handwritten digits: about 144 images for each of ten prompts."""

    name = "digits"
    prompts = DIGIT_PROMPTS
    known = DIGIT_PROMPTS

    def images(self, texts: Sequence[str]) -> RealPart:
        """See `Source`."""
        digits = load_digits("train")
        found = [torch.nonzero(digits.labels == DIGIT_PROMPTS.index(text)).flatten() for text in texts]
        rows = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(images) for images in found]))
        images = torch.cat(found)
        return RealPart(digits.images[images], rows, images)


class ShapesSource:
    """Scenes of coloured shapes, drawn for the prompts.

    Args:
        prompt_rows: About how many rows the prompt table has.
        images_per_prompt: Images drawn for each row.
    """

    name = "shapes"

    def __init__(self, prompt_rows: int, images_per_prompt: int) -> None:
        prompts = all_prompts()
        self.known = tuple(prompt.text for prompt in prompts)
        self.prompts = tuple(prompts[row].text for row in draw_rows(prompt_rows, TRAINING_SEED))
        self._images_per_prompt = images_per_prompt

    def images(self, texts: Sequence[str]) -> RealPart:
        """See `Source`."""
        row_of = {text: row for row, text in enumerate(self.known)}
        drawn = np.repeat([row_of[text] for text in texts], self._images_per_prompt)
        rows = torch.arange(len(texts)).repeat_interleave(self._images_per_prompt)
        return RealPart(torch.from_numpy(draw_images(drawn, TRAINING_SEED)), rows, torch.arange(len(rows)))


def build_source(data: DataSection) -> Source:
    """The built-in source that the configuration names.

    Raises:
        ValueError: for the others, which have latents and not images of given prompts.
    """
    if data.is_captioned:
        raise ValueError(f"data.source={data.source} is no built-in source; read its latents")
    if data.source == "digits":
        return DigitsSource()
    return ShapesSource(data.prompt_rows, data.images_per_prompt)


JUDGED_PROMPTS = 50
"""Most prompts of files that images are judged for: several images of one show how varied they are."""


def build_judge(config: Config) -> Judge:
    """The judge of the images that `data.source` names."""
    match config.data.source:
        case "digits":
            return DigitsJudge()
        case "shapes":
            return ShapesJudge()
        case "files":
            latents, given = files_data(config), config.data.prompts
            prompts = tuple(dict.fromkeys(latents.captions)) if given is None else load_prompts(given)
            return ThumbnailJudge(_judged(prompts, config), latents.thumbnails)
        case "teacher_samples":
            plan = plan_samples(config)
            return ThumbnailJudge(_judged(plan.prompts, config), open_samples(plan).thumbnails)


def _judged(prompts: tuple[str, ...], config: Config) -> tuple[str, ...]:
    """The prompts that images are judged for; at each judgement of a run every one of them has two images at least."""
    fewest = min(config.evaluation.samples, config.evaluation.judge_samples)
    return spread_out(prompts, min(JUDGED_PROMPTS, fewest // 2))


def spread_out(prompts: tuple[str, ...], most: int) -> tuple[str, ...]:
    """At most so many of the prompts, evenly spaced: a list often has its subjects one after the other."""
    count = min(len(prompts), most)
    return tuple(prompts[place * len(prompts) // count] for place in range(count))
