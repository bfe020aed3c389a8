"""Sources whose real images come as latents with captions of their own."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from advdmd_ray.data.source import Source
from advdmd_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from advdmd_ray.data.real import RealImages
    from advdmd_ray.evaluation.judges.contract import Judge

JUDGED_PROMPTS = 50
"""Most prompts that images are judged for: several images of one show how varied they are."""


class CaptionedLatents(Protocol):
    """Latents with what is known of each; see `LatentRows`."""

    @property
    def captions(self) -> Sequence[str]:
        """Of every row."""
        ...

    @property
    def thumbnails(self) -> "Tensor":
        """`[n, 3, 8, 8]`, in [-1, 1]."""
        ...

    @property
    def sizes(self) -> "Tensor":
        """`[n]` int64, number of each row's size among those of the run."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, rows: "Tensor", /) -> "Tensor":
        """A copy of some rows of one size, `[n, c, h, w]`."""
        ...


class CaptionedSource(Source):
    """Latents in files, judged by thumbnails."""

    @abstractmethod
    def latents(self) -> CaptionedLatents:
        """The latents, their captions and thumbnails.

        Raises:
            UserError: if they are not there.
        """

    def real_images(self, texts: tuple[str, ...]) -> "RealImages":
        """See `Source`.

        Raises:
            UserError: if an image's caption is not among the texts.
        """
        import torch

        from advdmd_ray.data.real import RealImages
        from advdmd_ray.evaluation.judges.thumbnails import alike

        row_of = {text: row for row, text in reversed(list(enumerate(texts)))}
        latents = self.latents()
        absent = next((caption for caption in latents.captions if caption not in row_of), None)
        if absent is not None:
            raise UserError(
                f"data.source={self.config.data.source}: the caption {absent!r} of a real image is among neither its "
                "prompts() nor its captions(); define captions() with all of them"
            )
        prompt_ids = torch.tensor([row_of[caption] for caption in latents.captions])
        # An image with several captions has as many rows, and is to be learned from or measured on, not both.
        images = alike(latents.thumbnails)
        if not self.config.data.buckets:
            return RealImages(latents, prompt_ids, images)
        return RealImages(latents, prompt_ids, images, sizes=latents.sizes)

    def judge(self) -> "Judge":
        """See `Source`; at each judgement of a run every prompt has two images at least, of each size."""
        from advdmd_ray.evaluation.judges.sized import SizedJudge
        from advdmd_ray.evaluation.judges.thumbnails import ThumbnailJudge

        data, latents = self.config.data, self.latents()
        fewest = min(self.config.evaluation.samples, self.config.evaluation.judge_samples)
        asked = spread_out(self.prompts(), min(JUDGED_PROMPTS, fewest // (2 * len(self.config.sizes))))
        if not data.buckets:
            return ThumbnailJudge(asked, latents.thumbnails)
        judges = [ThumbnailJudge(asked, latents.thumbnails[latents.sizes == size]) for size in range(len(data.buckets))]
        names = [f"{height} x {width}" for height, width in data.buckets]
        return SizedJudge(judges, names, data.bucket_weights or self.bucket_images())


def spread_out(prompts: tuple[str, ...], most: int) -> tuple[str, ...]:
    """At most so many of the prompts, evenly spaced: a list often has its subjects one after the other."""
    count = min(len(prompts), most)
    return tuple(prompts[place * len(prompts) // count] for place in range(count))
