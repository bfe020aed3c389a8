"""`data.source=shapes`: scenes of coloured shapes, drawn for the prompts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advdmd_ray.data.pixel_source import PixelSource, RealPart

if TYPE_CHECKING:
    from advdmd_ray.data.recipe import TeacherRecipe
    from advdmd_ray.evaluation.judges.contract import Judge
    from advdmd_ray.stations.reward import Oracle

TRAINING_SEED = 20260428
"""Of the prompt table and the real images: the same in every run, as a data set on disk would be."""


class ShapesSource(PixelSource):
    """About `data.prompt_rows` rows of prompts, and `data.images_per_prompt` scenes for each."""

    def known(self) -> tuple[str, ...]:
        """See `PixelSource`."""
        from advdmd_ray.data.shapes.skills import all_prompts

        return tuple(prompt.text for prompt in all_prompts())

    def kept_back(self) -> frozenset[str]:
        """See `PixelSource`: the held-out combinations, unless `data.held_out`."""
        from advdmd_ray.data.shapes.skills import all_prompts

        if self.config.data.held_out:
            return frozenset()
        return frozenset(prompt.text for prompt in all_prompts() if prompt.held_out)

    def own_prompts(self) -> tuple[str, ...]:
        """See `PixelSource`: every skill with its share."""
        from advdmd_ray.data.shapes.training_set import draw_rows

        known, data = self.known(), self.config.data
        return tuple(known[row] for row in draw_rows(data.prompt_rows, TRAINING_SEED, held_out=data.held_out))

    def images(self, texts: Sequence[str]) -> RealPart:
        """See `PixelSource`."""
        import numpy as np
        import torch

        from advdmd_ray.data.shapes.training_set import draw_images

        row_of, data = {text: row for row, text in enumerate(self.known())}, self.config.data
        drawn = np.repeat([row_of[text] for text in texts], data.images_per_prompt)
        pixels = torch.from_numpy(draw_images(drawn, TRAINING_SEED, held_out=data.held_out))
        rows = torch.arange(len(texts)).repeat_interleave(data.images_per_prompt)
        return RealPart(pixels, rows, torch.arange(len(rows)))

    def judge(self) -> "Judge":
        """See `Source`."""
        from advdmd_ray.data.shapes.judge import ShapesJudge

        return ShapesJudge()

    def oracle(self) -> "Oracle":
        """See `Source`: the exact checker."""
        from advdmd_ray.data.shapes.oracle import ShapesOracle

        return ShapesOracle()

    def teacher_recipe(self, images: int, seed: int) -> "TeacherRecipe":
        """See `Source`."""
        from advdmd_ray.data.shapes.recipe import shapes_recipe

        return shapes_recipe(images, seed)
