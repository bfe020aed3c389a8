"""Images of several sizes: each is cut to the size of nearest aspect ratio, and a shard keeps all sizes in one file.

What was cut away is kept beside a latent: the size of the image on disk, and where the cut lies in the scaled image.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from advdmd_ray.data.files.encoding import BATCH, LatentEncoding, encoded_batch
from advdmd_ray.data.files.fitting import Fitted, Fitting, decoded
from advdmd_ray.data.files.items import CaptionedImage, Shard
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.thumbnails import THUMBNAIL
from advdmd_ray.files import drafted_file

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Bucket:
    """One of several sizes.

    Attributes:
        fitting: How images get it.
        shape: Of a latent.
    """

    fitting: Fitting
    shape: Shape


def nearest(buckets: Sequence[Bucket], image: Image.Image) -> int:
    """Number of the bucket whose aspect ratio is nearest to an image's: of the least `|log(h / w) - log(H / W)|`.

    Of buckets of one ratio it is the largest that the image need not grow for, or else the smallest.
    """

    def order(number: int) -> tuple[float, bool, int]:
        fitting = buckets[number].fitting
        distance = abs(math.log(image.height / image.width) - math.log(fitting.height / fitting.width))
        area, grows = fitting.height * fitting.width, fitting.scale(image) > 1
        return distance, grows, area if grows else -area

    return min(range(len(buckets)), key=order)


def fit_to(buckets: Sequence[Bucket], item: CaptionedImage) -> Fitted:
    """Decode an image and cut it to the nearest of the sizes.

    Raises:
        ValueError: with the reason why the image cannot be used.
    """
    image, several = decoded(item)
    number = nearest(buckets, image)
    return replace(buckets[number].fitting.cut(image, several), bucket=number)


def bucket_schema(buckets: Sequence[Bucket]) -> pa.Schema:
    """Columns of an encoded shard of several sizes, row by row; all rows of a record batch are of one size.

    `place` is that among the shard's images that were used, in the order in which they are read; `width` and `height`
    are those of the image as a viewer shows it, and `left` and `top` where the cut begins in the scaled image.
    """
    whole = ("place", "bucket", "width", "height", "left", "top")
    fields = [
        ("name", pa.string()),
        ("caption", pa.string()),
        *((name, pa.int64()) for name in whole),
        ("latent", pa.large_list(pa.float32())),
        ("thumbnail", pa.list_(pa.float32(), 3 * THUMBNAIL * THUMBNAIL)),
    ]
    return pa.schema(fields, metadata={"shapes": _said(buckets)})


def _said(buckets: Sequence[Bucket]) -> str:
    return ";".join(",".join(str(side) for side in bucket.shape) for bucket in buckets)


@dataclass(frozen=True, slots=True)
class BucketEncoding(LatentEncoding):
    """A shard whose images are to be of several sizes.

    Attributes:
        shard: The images.
        file: Of their latents.
        buckets: The sizes.
        most_skipped: More images that cannot be used end it.
    """

    shard: Shard
    file: Path
    buckets: tuple[Bucket, ...]
    most_skipped: int

    def fit(self, item: CaptionedImage) -> Fitted:
        """See `LatentEncoding`: of the nearest size."""
        return fit_to(self.buckets, item)

    def write(
        self,
        usable: Iterator[tuple[CaptionedImage, Fitted]],
        codec: Callable[[Tensor], Tensor],
        finished: Callable[[], None],
    ) -> None:
        """See `LatentEncoding`: images go through the codec with others of their size."""
        schema, waiting = bucket_schema(self.buckets), [list[_Waiting]() for _ in self.buckets]
        with (
            drafted_file(self.file) as draft,
            pa.OSFile(str(draft), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            for place, (item, fitted) in enumerate(usable):
                some = waiting[fitted.bucket]
                some.append(_Waiting(place, item, fitted))
                if len(some) == BATCH:
                    writer.write_batch(self._batch(some, codec, schema))
                    some.clear()
            for some in waiting:
                if some:
                    writer.write_batch(self._batch(some, codec, schema))
            finished()

    def _batch(
        self, some: "Sequence[_Waiting]", codec: Callable[[Tensor], Tensor], schema: pa.Schema
    ) -> pa.RecordBatch:
        shape = self.buckets[some[0].fitted.bucket].shape
        names, captions, *tensors = encoded_batch([(one.item, one.fitted) for one in some], codec, shape)
        facts = [(one.place, one.fitted.bucket, *one.fitted.size, *one.fitted.crop) for one in some]
        latents, small = (pa.array(part.float().cpu().contiguous().numpy().reshape(-1)) for part in tensors)
        ends = pa.array(np.arange(len(some) + 1, dtype=np.int64) * math.prod(shape))
        columns = [
            *(pa.array(column) for column in (names, captions, *zip(*facts, strict=True))),
            pa.LargeListArray.from_arrays(ends, latents),
            pa.FixedSizeListArray.from_arrays(small, schema.field("thumbnail").type.list_size),
        ]
        return pa.record_batch(columns, schema=schema)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An image whose batch is not full.

    Attributes:
        place: Among the shard's images that are used.
        item: As it stands on disk.
        fitted: As it goes into the codec.
    """

    place: int
    item: CaptionedImage
    fitted: Fitted


class BucketLatents:
    """Latents of several sizes in the files of `BucketEncoding`, mapped into memory; see `ArrowLatents`.

    Rows are in the order in which the images are read, whatever their size.

    Args:
        files: The files.
        buckets: The sizes; the files must say the same.

    Attributes:
        captions: Of every row.
        thumbnails: `[n, 3, 8, 8]`, in [-1, 1].
        sizes: `[n]` number of each row's bucket.

    Raises:
        UserError: if a file is damaged or has latents of other shapes.
    """

    def __init__(self, files: Sequence[Path], buckets: Sequence[Bucket]) -> None:
        self.captions: list[str] = []
        self._rows: list[Float[np.ndarray, "c h w"]] = []
        sizes, small = list[int](), [np.empty((0, 3 * THUMBNAIL * THUMBNAIL), dtype=np.float32)]
        for file in files:
            rows = _read(file, buckets)
            rows.sort(key=lambda row: row.place)
            self.captions.extend(row.caption for row in rows)
            self._rows.extend(row.latent for row in rows)
            sizes.extend(row.bucket for row in rows)
            small.extend(row.thumbnail[None] for row in rows)
        self.sizes: Int64[Tensor, " n"] = torch.tensor(sizes, dtype=torch.int64)
        self.thumbnails = torch.from_numpy(np.concatenate(small).reshape(-1, 3, THUMBNAIL, THUMBNAIL))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor) -> Float[Tensor, "n c h w"]:
        """The latents of some rows of one size, copied."""
        return torch.from_numpy(np.stack([self._rows[row] for row in rows.tolist()]))


@dataclass(frozen=True, slots=True)
class _Row:
    place: int
    bucket: int
    caption: str
    latent: Float[np.ndarray, "c h w"]
    thumbnail: Float[np.ndarray, " t"]


def _read(file: Path, buckets: Sequence[Bucket]) -> list[_Row]:
    """The rows of a file; their latents lie in the mapped file."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{file}: is damaged ({error}); remove it, it is made again") from None
    if (reader.schema.metadata or {}).get(b"shapes", b"").decode() != _said(buckets):
        raise UserError(f"{file}: has no latents of shapes {_said(buckets)}; remove it, it is made again")
    found: list[_Row] = []
    for batch in batches:
        places, numbers, captions = (batch.column(name).to_pylist() for name in ("place", "bucket", "caption"))
        latents = batch.column("latent").flatten().to_numpy(zero_copy_only=True).reshape(-1, *buckets[numbers[0]].shape)
        small = batch.column("thumbnail").flatten().to_numpy().reshape(len(batch), -1)
        found.extend(map(_Row, places, numbers, captions, latents, small))
    return found
