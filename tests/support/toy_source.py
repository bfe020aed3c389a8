"""A data source from outside the package: bright images and dark ones, made on the spot."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.data.pixel_source import PixelSource, RealPart
from advdmd_ray.evaluation.judges.contract import Figure, JudgeScore, whole_images

NAME = "toy_source:ToySource"
"""What `data.source` says."""
EACH = 10
LEVELS = {"one": 0.5, "two": -0.5}
"""Mean of the images of each prompt."""


class ToyJudge:
    """How far the means of images are from those of real ones."""

    name = "toy"
    prompts = tuple(LEVELS)
    figures = (Figure("error", "error of the mean", "lower", share=False),)
    headline = "error"
    features = staticmethod(whole_images)

    def score(self, images: Float[Tensor, "n c h w"], rows: Int64[Tensor, " n"]) -> JudgeScore:
        """See `Judge`."""
        wanted = torch.tensor(list(LEVELS.values()))[rows]
        return JudgeScore({"error": float((images.mean(dim=(1, 2, 3)) - wanted).abs().mean())}, len(images))

    def ceiling(self) -> JudgeScore:
        """See `Judge`."""
        return JudgeScore({"error": 0.0}, EACH)


class ToySource(PixelSource):
    """Two prompts, and noisy images around the mean of each."""

    def known(self) -> tuple[str, ...]:
        """See `PixelSource`."""
        return tuple(LEVELS)

    def own_prompts(self) -> tuple[str, ...]:
        """See `PixelSource`."""
        return self.known()

    def images(self, texts: Sequence[str]) -> RealPart:
        """See `PixelSource`."""
        rows = torch.arange(len(texts)).repeat_interleave(EACH)
        noise = 0.1 * torch.randn(len(rows), 1, 8, 8, generator=torch.Generator().manual_seed(0))
        levels = torch.tensor([LEVELS[text] for text in texts])[rows]
        return RealPart(noise + levels.reshape(-1, 1, 1, 1), rows, torch.arange(len(rows)))

    def judge(self) -> ToyJudge:
        """See `Source`."""
        return ToyJudge()
