"""`data.source=digits`: handwritten digits, about 144 images for each of ten prompts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advdmd_ray.data.pixel_source import PixelSource, RealPart

if TYPE_CHECKING:
    from advdmd_ray.data.recipe import TeacherRecipe
    from advdmd_ray.evaluation.judges.contract import Judge


class DigitsSource(PixelSource):
    """scikit-learn's digits."""

    def known(self) -> tuple[str, ...]:
        """See `PixelSource`."""
        from advdmd_ray.data.digits.prompts import DIGIT_PROMPTS

        return DIGIT_PROMPTS

    def own_prompts(self) -> tuple[str, ...]:
        """See `PixelSource`: all."""
        return self.known()

    def images(self, texts: Sequence[str]) -> RealPart:
        """See `PixelSource`."""
        import torch

        from advdmd_ray.data.digits.images import load_digits

        digits, known = load_digits("train"), self.known()
        found = [torch.nonzero(digits.labels == known.index(text)).flatten() for text in texts]
        rows = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(images) for images in found]))
        images = torch.cat(found)
        return RealPart(digits.images[images], rows, images)

    def judge(self) -> "Judge":
        """See `Source`."""
        from advdmd_ray.data.digits.judge import DigitsJudge

        return DigitsJudge()

    def teacher_recipe(self, images: int, seed: int) -> "TeacherRecipe":  # noqa: ARG002 - the digits are as they are
        """See `Source`: pixels of the training digits, their labels as prompt ids."""
        from advdmd_ray.data.digits.images import load_digits
        from advdmd_ray.data.digits.prompts import DIGIT_WORDS
        from advdmd_ray.data.real import RealImages
        from advdmd_ray.data.recipe import TeacherRecipe
        from advdmd_ray.models.codec import PixelCodec
        from advdmd_ray.models.tiny import DIGITS

        digits = load_digits("train")
        return TeacherRecipe(self.known(), DIGIT_WORDS, PixelCodec(), DIGITS, RealImages(digits.images, digits.labels))
