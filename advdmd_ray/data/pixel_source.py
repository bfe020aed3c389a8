"""Sources that have, or draw, real images for the prompts that they are asked for."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.source import Source, mismatchable
from advdmd_ray.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from advdmd_ray.data.real import RealImages

ENCODED_AT_ONCE = 1024
"""Images that go through the codec in one call."""


@dataclass(frozen=True, slots=True)
class RealPart:
    """Real images of some prompts.

    Attributes:
        pixels: In [-1, 1].
        rows: The row of the prompts that each belongs to.
        images: Which image it is; one image may belong to two rows.
    """

    pixels: "Float[Tensor, 'n c h w']"
    rows: "Int64[Tensor, ' n']"
    images: "Int64[Tensor, ' n']"


class PixelSource(Source):
    """Images in pixels for any prompt among `known`; the pipeline's codec makes latents of them."""

    @abstractmethod
    def own_prompts(self) -> tuple[str, ...]:
        """The training prompts where `data.prompts` names no file; one may stand there more than once."""

    @abstractmethod
    def known(self) -> tuple[str, ...]:
        """Every prompt that real images can be had for."""

    def kept_back(self) -> frozenset[str]:
        """Those of them that the configuration keeps from training."""
        return frozenset()

    @abstractmethod
    def images(self, texts: Sequence[str]) -> RealPart:
        """Real images of the prompts.

        Args:
            texts: Prompts among `known`; a prompt that stands there twice has images in both rows.
        """

    def prompts(self) -> tuple[str, ...]:
        """See `Source`."""
        data = self.config.data
        if data.prompts is None:
            return self.own_prompts()
        prompts, known = load_prompts(data.prompts), self.known()
        unknown = [text for text in prompts if text not in known]
        if unknown:
            raise UserError(
                f"{data.prompts}: no real image has the prompt {unknown[0]!r}; data.source={data.source} has "
                f"{known[0]!r} to {known[-1]!r}"
            )
        kept_back = self.kept_back()
        secret = next((text for text in prompts if text in kept_back), None)
        if secret is not None:
            raise UserError(
                f"{data.prompts}: {secret!r} is a held-out prompt, by which a student is judged that never met it; "
                "leave it out, or set data.held_out=true"
            )
        return prompts

    def check(self) -> None:
        """See `Source`: every given prompt has real images."""
        if self.config.data.prompts is not None:
            mismatchable(self.prompts(), self.config)

    def real_images(self, texts: tuple[str, ...]) -> "RealImages":
        """See `Source`; a prompt that stands there twice has its images twice."""
        import torch

        from advdmd_ray.data.real import RealImages
        from advdmd_ray.models.pipeline import image_encoder, load_pipeline

        part = self.images(texts)
        encode = image_encoder(load_pipeline(self.config.model.path, parts="codec"))
        with torch.no_grad():
            encoded = torch.cat([encode(pixels) for pixels in part.pixels.split(ENCODED_AT_ONCE)])
        return RealImages(encoded, part.rows, part.images)
