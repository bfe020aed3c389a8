"""From captioned images to latents in Arrow files: a shard is encoded once, and a run that stops goes on from the next.

Files are content-addressed: their folder is named by the image codec and the size, they themselves by their shard, so
another model, size or data set never meets them.
"""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.data.files.fitting import Fitted, Fitting
from advdmd_ray.data.files.items import CaptionedImage, Item, LeftOut, Shard
from advdmd_ray.data.files.ledger import Ledger, ledger_file, write_ledger
from advdmd_ray.data.source import Encoded
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.thumbnails import THUMBNAIL, thumbnails
from advdmd_ray.files import disk_told, drafted_file, missing_folders, remove_empty

BATCH = 8
"""Images that go through the codec in one call."""
READER = 4
"""Counted up whenever the same file is read as another image, so that no cache keeps the old one."""


# Names of images, their captions, latents and thumbnails.
Batch: TypeAlias = tuple[list[str], list[str], Tensor, Tensor]


def latent_schema(shape: tuple[int, int, int]) -> pa.Schema:
    """Columns of an encoded shard: name, caption, latent `[c, h, w]` and thumbnail `[3, 8, 8]`, each row by row."""
    fields = [
        ("name", pa.string()),
        ("caption", pa.string()),
        ("latent", pa.list_(pa.float32(), shape[0] * shape[1] * shape[2])),
        ("thumbnail", pa.list_(pa.float32(), 3 * THUMBNAIL * THUMBNAIL)),
    ]
    return pa.schema(fields, metadata={"shape": ",".join(str(side) for side in shape)})


def encoded_file(folder: Path, shard: Shard) -> Path:
    """Where a shard's latents are, or will be."""
    return folder / f"{shard.identity[:32]}.arrow"


def make_cache(folder: Path) -> None:
    """Make a folder of latents, unless it is there.

    Raises:
        UserError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.cache {folder}: cannot be made ({error.strerror}); choose another data.cache") from None


def cache_folder(root: Path, codec: str, fittings: Sequence[Fitting], *, several: bool = False) -> Path:
    """The folder of one codec and one size, or of the sizes that shards have together.

    Args:
        root: Of all latents.
        codec: Digest of the codec's weights and configuration.
        fittings: Each size, and what is left out.
        several: Whether a file may have several sizes, even if there is one.
    """
    sizes = [f"{each.height} {each.width} {each.most_upscaling} {each.channels}" for each in fittings]
    facts = f"{READER} {codec} {' and '.join(sizes)}{' of several' if several else ''}"
    return root / hashlib.sha256(facts.encode()).hexdigest()[:32]


class LatentEncoding(ABC):
    """A shard that is to be encoded, and where: plain data, which may travel to a worker. See `EncodingTask`.

    Attributes:
        shard: The images.
        file: Of their latents.
        most_skipped: More images that cannot be used end it.
    """

    __slots__ = ()
    shard: Shard
    file: Path
    most_skipped: int

    @abstractmethod
    def fit(self, item: CaptionedImage) -> Fitted:
        """Makes an image what goes into the codec; called in threads.

        Raises:
            ValueError: with the reason why the image cannot be used.
        """

    @abstractmethod
    def write(
        self,
        usable: Iterator[tuple[CaptionedImage, Fitted]],
        codec: Callable[[Tensor], Tensor],
        finished: Callable[[], None],
    ) -> None:
        """Encodes images and writes the file, as a whole or not at all; tells before the file is in its place."""

    @property
    def name(self) -> str:
        """The shard's."""
        return self.shard.name

    @property
    def done(self) -> bool:
        """Whether its latents are there, and what became of its images."""
        return self.file.exists() and ledger_file(self.file).exists()

    def encode(self, codec: Callable[[Tensor], Tensor], threads: int = 1) -> Encoded:
        """Encode the shard, unless it is there; its file is written as a whole or not at all.

        Images are decoded ahead of the codec, at most `2 * max(threads, BATCH)` of them at a time.

        Args:
            codec: From images `[b, 3, H, W]` in [-1, 1] to latents `[b, c, h, w]`. Which images come together hangs on
                the shard alone.
            threads: That decode and scale images.

        Raises:
            UserError: if too many images cannot be used, the codec makes other latents, or the folder cannot be
                written. A folder that was made for nothing is gone then.
            DiskError: if the disk is full.
        """
        if self.done:
            return Encoded(0)
        made = missing_folders(self.file.parent)
        make_cache(self.file.parent)
        try:
            with disk_told(f"data.cache {self.file.parent}", "what is encoded stays; make room, or choose another"):
                return self._encode(codec, threads)
        except PermissionError as error:  # what is read says so itself
            raise UserError(
                f"data.cache {self.file.parent}: cannot be written ({error.strerror}); choose another data.cache"
            ) from None
        finally:
            remove_empty(made)  # those that hold something stay

    def _encode(self, codec: Callable[[Tensor], Tensor], threads: int) -> Encoded:
        ledger = Ledger()
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            usable = _fitted(self.shard.read(), self.fit, pool, 2 * max(threads, BATCH), ledger, self.most_skipped)
            self.write(usable, codec, lambda: write_ledger(ledger_file(self.file), ledger))
        return Encoded(ledger.used, tuple((each.name, each.reason) for each in ledger.lost))


@dataclass(frozen=True, slots=True)
class ShardEncoding(LatentEncoding):
    """A shard whose images are to be of one size.

    Attributes:
        shard: The images.
        file: Of their latents.
        fitting: The size of images.
        shape: Of a latent.
        most_skipped: More images that cannot be used end it.
    """

    shard: Shard
    file: Path
    fitting: Fitting
    shape: tuple[int, int, int]
    most_skipped: int

    def fit(self, item: CaptionedImage) -> Fitted:
        """See `LatentEncoding`."""
        return self.fitting.fitted(item)

    def write(
        self,
        usable: Iterator[tuple[CaptionedImage, Fitted]],
        codec: Callable[[Tensor], Tensor],
        finished: Callable[[], None],
    ) -> None:
        """See `LatentEncoding`."""

        def batches() -> Iterator[Batch]:
            while some := list(itertools.islice(usable, BATCH)):
                yield encoded_batch(some, codec, self.shape)
            finished()

        write_latents(self.file, self.shape, batches())


def _fitted(
    items: Iterator[Item],
    fit: Callable[[CaptionedImage], Fitted],
    pool: ThreadPoolExecutor,
    ahead: int,
    ledger: Ledger,
    most_skipped: int,
) -> Iterator[tuple[CaptionedImage, Fitted]]:
    """The images that can be used, in their order, while others are decoded ahead; all are in the ledger then."""
    waiting: deque[tuple[CaptionedImage, Future[Fitted]]] = deque()
    try:
        while True:
            while len(waiting) < ahead and (item := next(items, None)) is not None:
                if isinstance(item, LeftOut):
                    ledger.left_out.append(item)
                else:
                    waiting.append((item, pool.submit(fit, item)))
            ledger.check(most_skipped)
            if not waiting:
                return
            item, future = waiting.popleft()
            try:
                fitted = future.result()
            except ValueError as error:
                ledger.left_out.append(LeftOut(item.name, str(error), lost=True))
                continue
            ledger.use(item, fitted.size, several=fitted.several)
            yield item, fitted
    finally:
        for _, future in waiting:
            future.cancel()


def encoded_batch(
    some: Sequence[tuple[CaptionedImage, Fitted]],
    encode: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
) -> Batch:
    """Images of one size through the codec.

    Args:
        some: Images as they stand on disk, and as they go into the codec.
        encode: The codec.
        shape: Of a latent.

    Raises:
        UserError: if the codec makes other latents.
    """
    pixels = torch.from_numpy(np.stack([fitted.pixels for _, fitted in some]))
    captions = [" ".join(item.caption.split()) for item, _ in some]
    latents = encode(pixels)
    if tuple(latents.shape[1:]) != shape:
        raise UserError(
            f"the image codec turns an image in colours into a latent of {tuple(latents.shape[1:])}, and the "
            f"transformer takes {shape}; choose another model.path for data.source=files"
        )
    return [item.name for item, _ in some], captions, latents, thumbnails(pixels)


def write_latents(file: Path, shape: tuple[int, int, int], batches: Iterator[Batch]) -> None:
    """Write a shard's file beside its place and rename it: it is there as a whole or not at all.

    Args:
        file: Its place; the folder exists.
        shape: Of a latent.
        batches: Names, captions, latents `[b, c, h, w]` and thumbnails `[b, 3, 8, 8]`.
    """
    schema = latent_schema(shape)
    with drafted_file(file) as draft, pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for names, captions, *tensors in batches:
            flat = [pa.array(part.float().cpu().contiguous().numpy().reshape(-1)) for part in tensors]
            columns = [
                pa.array(names),
                pa.array(captions),
                *(
                    pa.FixedSizeListArray.from_arrays(values, schema.field(name).type.list_size)
                    for name, values in zip(("latent", "thumbnail"), flat, strict=True)
                ),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


class ArrowLatents:
    """Latents in the files of `ShardEncoding`, mapped into memory: only rows that are asked for are read.

    Args:
        files: The files.
        shape: (c, h, w); the files must say the same.

    Attributes:
        names: Of every row.
        captions: Of every row.
        thumbnails: `[n, 3, 8, 8]`, in [-1, 1].

    Raises:
        UserError: if a file is damaged or has latents of another shape.
    """

    def __init__(self, files: Sequence[Path], shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.names: list[str] = []
        self.captions: list[str] = []
        self._places: list[tuple[int, int]] = []
        self._columns: list[np.ndarray] = []
        small: list[np.ndarray] = []
        said = ",".join(str(side) for side in shape)
        for file in files:
            try:
                table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            except (OSError, pa.ArrowInvalid) as error:
                raise UserError(f"{file}: is damaged ({error}); remove it, it is made again") from None
            if (table.schema.metadata or {}).get(b"shape", b"").decode() != said:
                raise UserError(f"{file}: has no latents of shape {said}; remove it, it is made again")
            self.names.extend(table.column("name").to_pylist())
            self.captions.extend(table.column("caption").to_pylist())
            for chunk in table.column("latent").chunks:
                values = chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, *shape)
                self._places.extend((len(self._columns), row) for row in range(len(values)))
                self._columns.append(values)
            small.extend(chunk.flatten().to_numpy() for chunk in table.column("thumbnail").chunks)
        flat = np.concatenate(small) if small else np.empty(0, dtype=np.float32)
        self.thumbnails = torch.from_numpy(flat.reshape(-1, 3, THUMBNAIL, THUMBNAIL).copy())

    def __len__(self) -> int:
        return len(self._places)

    @property
    def sizes(self) -> Int64[Tensor, " n"]:
        """Number of each row's size: all have the first."""
        return torch.zeros(len(self), dtype=torch.int64)

    def __getitem__(self, rows: Tensor) -> Float[Tensor, "n c h w"]:
        """The latents of some rows, copied."""
        places = [self._places[int(row)] for row in rows]
        found = [self._columns[column][row] for column, row in places]
        return torch.from_numpy(np.stack(found)) if found else torch.empty(0, *self.shape)
