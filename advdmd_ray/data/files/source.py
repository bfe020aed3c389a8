"""`data.source=files`: captioned images on disk; found, encoded where that is still to do, and opened."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advdmd_ray.console import say
from advdmd_ray.data.captioned_source import CaptionedSource
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.source import Encoded
from advdmd_ray.errors import UserError
from advdmd_ray.files import files_digest, remove_abandoned

if TYPE_CHECKING:
    from advdmd_ray.data.files.buckets import Bucket, BucketLatents
    from advdmd_ray.data.files.encoding import ArrowLatents, LatentEncoding
    from advdmd_ray.data.files.fitting import Fitting
    from advdmd_ray.data.files.items import CaptionedImage, Found, LeftOut
    from advdmd_ray.data.files.ledger import Ledger
    from advdmd_ray.models.folder import PipelineInfo

LOOKED_AT = 16
"""Images that are read before a run: what ails all of them is found at once, and not after hours in a queue."""


class FilesSource(CaptionedSource):
    """A folder of captioned images, Parquet files or WebDataset tars at `data.path`."""

    reads_path = True
    takes_buckets = True

    def prompts(self) -> tuple[str, ...]:
        """See `Source`: any will do, as real images have captions of their own, which are the prompts by default."""
        given = self.config.data.prompts
        return self.captions() if given is None else load_prompts(given)

    def captions(self) -> tuple[str, ...]:
        """See `Source`."""
        return tuple(dict.fromkeys(self.latents().captions))

    def most_texts(self) -> int | None:
        """See `Source`: every image may have a caption of its own."""
        images = [shard.images for shard in self._found().shards]
        given = self.config.data.prompts
        prompts = 0 if given is None else len(set(load_prompts(given)))
        return None if None in images else prompts + sum(count for count in images if count is not None)

    def check(self) -> None:
        """See `Source`: the prompts can be read, and there are images enough, of which the first are looked at."""
        if self.config.data.prompts is not None:
            load_prompts(self.config.data.prompts)
        found = self._found()
        from advdmd_ray.evaluation.judges.thumbnails import check_count  # imports torch

        counts = [shard.images for shard in found.shards if shard.images is not None]
        if len(counts) == len(found.shards):
            check_count(sum(counts))
        self._look(found)

    def _look(self, found: "Found") -> None:
        """Reads the first images, as all will be read.

        Raises:
            UserError: if none of them can be used, or more cannot than may be left out.
        """
        from advdmd_ray.data.files.items import LeftOut
        from advdmd_ray.data.files.ledger import Ledger, named

        data, buckets = self.config.data, self._buckets
        ledger, looked_at, broken = Ledger(left_out=list(found.left_out)), 0, list[LeftOut]()
        for item in itertools.chain.from_iterable(shard.read() for shard in found.shards):
            if looked_at == LOOKED_AT:
                break
            left_out = item if isinstance(item, LeftOut) else _unfit(buckets, item)
            looked_at += left_out is None or left_out.lost
            if left_out is not None and left_out.lost:
                broken.append(left_out)
        ledger.left_out += broken
        ledger.check(data.most_skipped)
        if not looked_at:
            raise UserError(
                f"data.path {data.path}: holds no image; give a folder of images, or .parquet or .tar files"
            )
        if len(broken) == looked_at:
            first = f"none of the first {looked_at} images can be used"
            raise UserError(f"data.path {data.path}: {first}: {named(broken)}; repair them")

    def to_encode(self) -> "list[LatentEncoding]":
        """See `Source`: the shards that are not encoded yet."""
        return [task for task in self._encodings if not task.done]

    def encoded(self, results: Iterable[Encoded]) -> str:
        """See `Source`."""
        from advdmd_ray.evaluation.judges.thumbnails import check_count

        told = self._told(results)
        check_count(len(self._held))
        return f"{told}\n  {self._sized()}" if self.config.data.buckets else told

    def _sized(self) -> str:
        """How many images each bucket has, in words.

        Raises:
            UserError: if the judge has too few of some.
        """
        from advdmd_ray.evaluation.judges.thumbnails import LEAST_IMAGES

        each = list(zip(self.config.data.buckets, self.bucket_images(), strict=True))
        said = [f"{count} of {height} x {width}" for (height, width), count in each]
        few = [words for words, (_, count) in zip(said, each, strict=True) if count < LEAST_IMAGES]
        if few:
            raise UserError(
                f"data.buckets: of the images that can be used {', '.join(few)} {'is' if len(few) == 1 else 'are'} too "
                f"few; the judge compares with at least {LEAST_IMAGES} of each size: leave such sizes out, or give more"
            )
        return f"cut to height x width: {', '.join(said)}"

    def bucket_images(self) -> tuple[int, ...]:
        """See `Source`."""
        count = len(self.config.data.buckets)
        return tuple(self.latents().sizes.bincount(minlength=count).tolist()) if count else ()

    def _told(self, results: Iterable[Encoded]) -> str:
        """What became of everything, once all is encoded; also of what was encoded before.

        Raises:
            UserError: if too many images cannot be used, which is asked after each shard, or none can.
        """
        from advdmd_ray.data.files.items import LeftOut
        from advdmd_ray.data.files.ledger import SKIPPED, Ledger, reading_table, write_skipped

        data = self.config.data
        remove_abandoned(self._folder)
        # Those alone that count here: of the rest there may be millions, and this is asked after each shard.
        lost = Ledger(left_out=self._counted().lost)
        lost.check(data.most_skipped)
        for result in results:
            lost.left_out += [LeftOut(name, reason, lost=True) for name, reason in result.skipped]
            lost.check(data.most_skipped)
        missing, of = len(self.to_encode()), len(self._encodings)
        if missing:
            raise UserError(
                f"{self.config.latents}: {missing} of {of} shards of {data.path} are not there after encoding; "
                "on several machines data.cache must be a folder that all of them see, and data.path must not change"
            )
        ledger = self._counted()
        ledger.check(data.most_skipped)  # of a shard too whose worker was lost when it was done, before it could say so
        if ledger.used != len(self._held):
            raise UserError(
                f"{self._folder}: has {len(self._held)} latents, and the tables of their shards "
                f"count {ledger.used}; remove the folder, it is made again"
            )
        skipped = self._folder / SKIPPED
        write_skipped(skipped, ledger)
        return reading_table(ledger, self._held.captions, skipped)

    def _counted(self) -> "Ledger":
        """What is known of the shards that are encoded, and of what is in none."""
        from advdmd_ray.data.files.ledger import Ledger, ledger_file, read_ledger

        ledger = Ledger(left_out=list(self._found().left_out))
        for task in self._encodings:
            if task.done:
                ledger.add(read_ledger(ledger_file(task.file)))
        return ledger

    def latents(self) -> "ArrowLatents | BucketLatents":
        """See `CaptionedSource`; what is not encoded yet is encoded now, in this process, and told.

        Raises:
            UserError: if there are no images, or too many that cannot be used.
        """
        from advdmd_ray.data.encoding import encode_here

        if tasks := self.to_encode():
            for line in self._told(encode_here(self.config, tasks)).splitlines():
                say(line)
        return self._held

    @functools.cache  # noqa: B019 - a source lives as long as its run
    def _found(self) -> "Found":
        from advdmd_ray.data.files.shards import find_shards  # imports pyarrow

        data = self.config.data
        own = (self.config.latents, self.config.folder, Path(self.config.run.output))
        return find_shards(data.path or "", own, image_column=data.image_column, caption_column=data.caption_column)

    @functools.cached_property
    def _buckets(self) -> "tuple[Bucket, ...]":
        """The sizes of images; one without `data.buckets`."""
        from advdmd_ray.data.files.buckets import Bucket
        from advdmd_ray.models.sizes import sized_pipelines

        return tuple(Bucket(self._fitting(info), info.latent.shape) for info in sized_pipelines(self.config))

    def _fitting(self, info: "PipelineInfo") -> "Fitting":
        from advdmd_ray.data.files.fitting import Fitting

        if info.image_channels not in (1, 3):
            raise UserError(
                f"{info.folder / 'vae'}: takes images of {info.image_channels} channels; data.source=files has images "
                "in grey or colours, choose another model.path"
            )
        return Fitting(*info.pixels, self.config.data.most_upscaling, 1 if info.image_channels == 1 else 3)

    @functools.cached_property
    def _folder(self) -> "Path":
        """Of the latents that this codec makes of images of these sizes."""
        from advdmd_ray.data.files.encoding import cache_folder
        from advdmd_ray.models.sizes import main_pipeline

        codec = files_digest(main_pipeline(self.config).files("vae"))
        fittings = [bucket.fitting for bucket in self._buckets]
        return cache_folder(self.config.latents, codec, fittings, several=bool(self.config.data.buckets))

    @functools.cached_property
    def _encodings(self) -> "list[LatentEncoding]":
        """All shards, and where they are or will be."""
        from advdmd_ray.data.files.buckets import BucketEncoding
        from advdmd_ray.data.files.encoding import ShardEncoding, encoded_file

        data, buckets = self.config.data, self._buckets
        places = [(shard, encoded_file(self._folder, shard)) for shard in self._found().shards]
        if data.buckets:
            return [BucketEncoding(*place, buckets, data.most_skipped) for place in places]
        return [ShardEncoding(*place, buckets[0].fitting, buckets[0].shape, data.most_skipped) for place in places]

    @functools.cached_property
    def _held(self) -> "ArrowLatents | BucketLatents":
        from advdmd_ray.data.files.buckets import BucketLatents
        from advdmd_ray.data.files.encoding import ArrowLatents
        from advdmd_ray.data.files.ledger import named

        files, buckets = [task.file for task in self._encodings], self._buckets
        sized = bool(self.config.data.buckets)
        latents = BucketLatents(files, buckets) if sized else ArrowLatents(files, buckets[0].shape)
        if not len(latents):
            raise UserError(f"data.path {self.config.data.path}: no image can be used: {named(self._counted().lost)}")
        return latents


def _unfit(buckets: "Sequence[Bucket]", item: "CaptionedImage") -> "LeftOut | None":
    """What keeps an image from being used, or None."""
    from advdmd_ray.data.files.buckets import fit_to
    from advdmd_ray.data.files.items import LeftOut

    try:
        fit_to(buckets, item)
    except ValueError as error:
        return LeftOut(item.name, str(error), lost=True)
    return None
