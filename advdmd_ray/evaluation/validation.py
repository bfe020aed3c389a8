"""Validation: prompts that the student draws while it learns, always from the same noise, and their scores."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advdmd_ray.diffusion.seeds import derive_seed
from advdmd_ray.evaluation.judges.draws import Draw
from advdmd_ray.evaluation.pictures.frames import framed
from advdmd_ray.evaluation.pictures.grids import comparison_grid, to_pixels
from advdmd_ray.evaluation.scorers import Scorer
from advdmd_ray.stations.prompt_table import PromptRows

logger = logging.getLogger(__name__)

COLUMNS = 8
"""Most prompts in one picture; further ones have pictures of their own."""


@dataclass(frozen=True, slots=True)
class Validated:
    """What came of a validation.

    Attributes:
        scores: Mean over all images, by the word of each scorer.
        pictures: Paths of the pictures as text; none if the disk refused one.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StudentValidation:
    """Draws and scores the images of the validation prompts.

    Attributes:
        texts: p prompts.
        prompts: The same, encoded.
        decode: Turns latents into images in [-1, 1].
        scorers: Those that look at the images.
        images: Images of each prompt, m. Image i of prompt j draws from (seed, j, i) alone.
        seed: Of initial and step noise.
        sizes: Number of sizes that images have; prompt j is drawn in size j modulo their number.
        path: From a version and the number of a picture, from 0, to where it goes.
        thin: Removes pictures of some versions where there are many.
    """

    texts: tuple[str, ...]
    prompts: PromptRows
    decode: Callable[[Tensor], Tensor]
    scorers: tuple[Scorer, ...]
    images: int
    seed: int
    sizes: int
    path: Callable[[int, int], Path]
    thin: Callable[[], None]

    def drawn(self, version: int, label: str, draw: Draw) -> Validated:
        """Draws all images, at most `COLUMNS` prompts of them at a time.

        Args:
            version: Of the student.
            label: What the pictures say of it.
            draw: Draws latents of one size.

        Raises:
            UserError: if a scorer breaks its contract.
        """
        sums = dict.fromkeys((scorer.word for scorer in self.scorers), 0.0)
        pictures = list[str]()
        for number, first in enumerate(range(0, len(self.texts), COLUMNS)):
            prompts = range(first, min(first + COLUMNS, len(self.texts)))
            tiles: dict[int, np.ndarray] = {}
            for size in range(self.sizes):
                asked = [
                    (row, prompt) for row in range(self.images) for prompt in prompts if prompt % self.sizes == size
                ]
                if not asked:
                    continue
                ids = [prompt for _, prompt in asked]
                seeds = [derive_seed(self.seed, "validation", prompt, row) for row, prompt in asked]
                images = self.decode(draw(self.prompts.select(torch.tensor(ids)), seeds, size)).cpu()
                for scorer in self.scorers:
                    sums[scorer.word] += float(scorer(images, [self.texts[each] for each in ids]).double().sum())
                places = (row * len(prompts) + prompt - first for row, prompt in asked)
                tiles |= zip(places, to_pixels(images.float().numpy()), strict=True)
            shown = framed([tiles[place] for place in range(len(tiles))]).transpose(0, 3, 1, 2) / np.float32(127.5) - 1
            columns = [self.texts[prompt] for prompt in prompts]
            try:
                pictures.append(str(comparison_grid(self.path(version, number), {label: shown}, columns)))
            except OSError as error:
                logger.warning("no picture of validation %d (%s)", version, error.strerror or error)
        self.thin()
        return Validated({word: total / (len(self.texts) * self.images) for word, total in sums.items()}, (*pictures,))
