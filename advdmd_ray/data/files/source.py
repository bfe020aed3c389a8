"""`data.source=files`: captioned images on disk; found, encoded where that is still to do, and opened."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from advdmd_ray.data.captioned_source import CaptionedSource
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.source import Progress
from advdmd_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from advdmd_ray.data.files.encoding import ArrowLatents
    from advdmd_ray.data.files.shards import Shard


LOOKED_AT = 16
"""Images that are read before a run: what ails all of them is found at once, and not after hours in a queue."""


class FilesSource(CaptionedSource):
    """A folder of captioned images, Parquet files or WebDataset tars at `data.path`."""

    reads_path = True

    def prompts(self) -> tuple[str, ...]:
        """See `Source`: any will do, as real images have captions of their own, which are the prompts by default."""
        given = self.config.data.prompts
        return self.captions() if given is None else load_prompts(given)

    def captions(self) -> tuple[str, ...]:
        """See `Source`."""
        return tuple(dict.fromkeys(self.latents().captions))

    def check(self) -> None:
        """See `Source`: the prompts can be read, and there are images enough, of which the first are looked at."""
        if self.config.data.prompts is not None:
            load_prompts(self.config.data.prompts)
        shards = self._shards()
        from advdmd_ray.evaluation.judges.thumbnails import check_count  # imports torch

        counts = [shard.images for shard in shards if shard.images is not None]
        if len(counts) == len(shards):
            check_count(sum(counts))
        self._look(shards)

    def _look(self, shards: "Sequence[Shard]") -> None:
        """Reads the first images, as all will be read.

        Raises:
            UserError: if none of them can be used, or more cannot than may be left out.
        """
        from advdmd_ray.data.files.encoding import Fitting, Skipped
        from advdmd_ray.models.folder import inspect_pipeline

        data, model = self.config.data, self.config.model
        fitting = Fitting(*inspect_pipeline(model.path, model.pixels).pixels, data.most_upscaling)
        skipped, looked_at = Skipped(data.most_skipped), 0
        for item in itertools.islice(itertools.chain.from_iterable(shard.read() for shard in shards), LOOKED_AT):
            looked_at += 1
            try:
                fitting.fitted(item)
            except ValueError as error:
                skipped.add(item.name, str(error))
        if not looked_at:
            raise UserError(
                f"data.path {data.path}: holds no image; give a folder of images, or .parquet or .tar files"
            )
        if len(skipped.reasons) == looked_at:
            first = f"none of the first {looked_at} images can be used"
            raise UserError(f"data.path {data.path}: {first}: {skipped.named()}; repair them")

    def prepare(self, progress: Progress) -> str:
        """See `Source`: encodes the images that are not encoded yet."""
        from advdmd_ray.evaluation.judges.thumbnails import check_count

        latents = self._opened(progress)
        check_count(len(latents))
        return f"{len(latents)} real images with {len(set(latents.captions))} captions"

    @functools.cached_property
    def _held(self) -> "ArrowLatents":
        return self._opened(lambda _done, _of: None)

    def latents(self) -> "ArrowLatents":
        """See `CaptionedSource`; what is not encoded yet is encoded now.

        Raises:
            UserError: if there are no images, or too many that cannot be used.
        """
        return self._held

    def _shards(self) -> "tuple[Shard, ...]":
        from advdmd_ray.data.files.shards import find_shards  # imports pyarrow

        data = self.config.data
        return find_shards(data.path or "", image_column=data.image_column, caption_column=data.caption_column)

    def _opened(self, progress: Progress) -> "ArrowLatents":
        import torch

        from advdmd_ray.data.files.encoding import ArrowLatents, Fitting, Skipped, cache_folder, encode_shards
        from advdmd_ray.files import files_digest
        from advdmd_ray.models.folder import inspect_pipeline
        from advdmd_ray.models.pipeline import image_encoder, load_pipeline

        data, model = self.config.data, self.config.model
        info = inspect_pipeline(model.path, model.pixels)
        fitting = Fitting(*info.pixels, data.most_upscaling)
        folder = cache_folder(self.config.latents, files_digest(info.files("vae")), fitting)
        skipped = Skipped(data.most_skipped)

        @functools.cache
        def encoder() -> "Callable[[Tensor], Tensor]":  # loaded only if a shard is not encoded yet
            device = "cuda" if torch.cuda.is_available() else "cpu"  # before any worker is up
            return image_encoder(load_pipeline(model.path, parts="codec").to(device))

        shape = info.latent.shape
        files = encode_shards(self._shards(), folder, fitting, encoder, shape, skipped, progress)
        latents = ArrowLatents(files, shape)
        if not len(latents):
            raise UserError(f"data.path {data.path}: no image can be used: {skipped.named()}")
        return latents
