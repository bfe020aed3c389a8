"""`data.source=files`: captioned images on disk; found, encoded where that is still to do, and opened."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from advdmd_ray.data.captioned_source import CaptionedSource
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.source import Encoded
from advdmd_ray.errors import UserError

if TYPE_CHECKING:
    from advdmd_ray.data.files.encoding import ArrowLatents, ShardEncoding, Skipped
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

    def most_texts(self) -> int | None:
        """See `Source`: every image may have a caption of its own."""
        images = [shard.images for shard in self._shards()]
        given = self.config.data.prompts
        prompts = 0 if given is None else len(set(load_prompts(given)))
        return None if None in images else prompts + sum(count for count in images if count is not None)

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
        from advdmd_ray.data.files.encoding import Skipped
        from advdmd_ray.data.files.fitting import Fitting
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

    def to_encode(self) -> "list[ShardEncoding]":
        """See `Source`: the shards that are not encoded yet."""
        return [task for task in self._encodings if not task.file.exists()]

    def encoded(self, results: Iterable[Encoded]) -> str:
        """See `Source`."""
        from advdmd_ray.data.files.encoding import Skipped
        from advdmd_ray.evaluation.judges.thumbnails import check_count

        data, skipped = self.config.data, Skipped(self.config.data.most_skipped)
        for result in results:
            skipped.add_all(result.skipped)
        missing, of = len(self.to_encode()), len(self._encodings)
        if missing:
            raise UserError(
                f"{self.config.latents}: {missing} of {of} shards of {data.path} are not there after encoding; "
                "on several machines data.cache must be a folder that all of them see, and data.path must not change"
            )
        latents = self._open(skipped)
        check_count(len(latents))
        left_out = f"; left out {len(skipped.reasons)}: {skipped.named()}" if skipped.reasons else ""
        return f"{len(latents)} real images with {len(set(latents.captions))} captions{left_out}"

    @functools.cached_property
    def _held(self) -> "ArrowLatents":
        from advdmd_ray.data.encoding import encode_here
        from advdmd_ray.data.files.encoding import Skipped

        skipped = Skipped(self.config.data.most_skipped)
        for result in encode_here(self.config.model.path, self.to_encode()):
            skipped.add_all(result.skipped)
        return self._open(skipped)

    def latents(self) -> "ArrowLatents":
        """See `CaptionedSource`; what is not encoded yet is encoded now, in this process.

        Raises:
            UserError: if there are no images, or too many that cannot be used.
        """
        return self._held

    def _shards(self) -> "tuple[Shard, ...]":
        from advdmd_ray.data.files.shards import find_shards  # imports pyarrow

        data = self.config.data
        return find_shards(data.path or "", image_column=data.image_column, caption_column=data.caption_column)

    @functools.cached_property
    def _encodings(self) -> "list[ShardEncoding]":
        """All shards, and where they are or will be."""
        from advdmd_ray.data.files.encoding import ShardEncoding, cache_folder, encoded_file
        from advdmd_ray.data.files.fitting import Fitting
        from advdmd_ray.files import files_digest
        from advdmd_ray.models.folder import inspect_pipeline

        data, model = self.config.data, self.config.model
        info = inspect_pipeline(model.path, model.pixels)
        fitting = Fitting(*info.pixels, data.most_upscaling)
        folder = cache_folder(self.config.latents, files_digest(info.files("vae")), fitting)
        return [
            ShardEncoding(shard, encoded_file(folder, shard), fitting, info.latent.shape, data.most_skipped)
            for shard in self._shards()
        ]

    def _open(self, skipped: "Skipped") -> "ArrowLatents":
        from advdmd_ray.data.files.encoding import ArrowLatents

        tasks = self._encodings
        latents = ArrowLatents([task.file for task in tasks], tasks[0].shape if tasks else (0, 0, 0))
        if not len(latents):
            raise UserError(f"data.path {self.config.data.path}: no image can be used: {skipped.named()}")
        return latents
