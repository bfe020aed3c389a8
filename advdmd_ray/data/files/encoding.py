"""From captioned images to latents in Arrow files: a shard is encoded once, and a run that stops goes on from the next.

Files are content-addressed: their folder is named by the image codec and the size, they themselves by their shard, so
another model, size or data set never meets them.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from advdmd_ray.data.files.shards import CaptionedImage, Shard
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.thumbnails import THUMBNAIL, thumbnails
from advdmd_ray.files import drafted_file

BATCH = 8
"""Images that go through the codec in one call."""
READER = 2
"""Counted up whenever the same file is read as another image, so that no cache keeps the old one."""
UNREADABLE = (
    OSError,
    TypeError,  # Pillow's, of a broken TIFF
    ValueError,
    SyntaxError,  # Pillow's, of a broken PNG
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
NAMED = 5
"""Skipped images that a message names."""


# Names of images, their captions, latents and thumbnails.
Batch: TypeAlias = tuple[list[str], list[str], Tensor, Tensor]


@dataclass(slots=True)
class Skipped:
    """Images that were left out, over all shards, and when there are too many of them.

    Attributes:
        limit: Most images that may be left out.
        reasons: What was wrong, by image.
    """

    limit: int
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Count one.

        Raises:
            UserError: if there are more than `limit`.
        """
        self.reasons[name] = reason
        if len(self.reasons) > self.limit:
            raise UserError(
                f"more than data.most_skipped={self.limit} images cannot be used: {self.named()}; repair or remove "
                "them, or raise data.most_skipped"
            )

    def named(self) -> str:
        """The first of them with their reasons."""
        shown = [f"{name} ({reason})" for name, reason in list(self.reasons.items())[:NAMED]]
        return ", ".join(shown) + (", ..." if len(self.reasons) > NAMED else "")


@dataclass(frozen=True, slots=True)
class Fitting:
    """How images become the model's size.

    Attributes:
        height: Pixels.
        width: Pixels.
        most_upscaling: Images that would have to grow by more than this factor are left out.
    """

    height: int
    width: int
    most_upscaling: float

    def fitted(self, item: CaptionedImage) -> Float[np.ndarray, "3 h w"]:
        """Decode, scale until it covers the size, and cut the middle out; values in [-1, 1].

        Raises:
            ValueError: with the reason why the image cannot be used.
        """
        if not item.caption.strip():
            raise ValueError("has no caption")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(item.content)) as opened:
                    image = upright_rgb(opened)
        except UNREADABLE as error:
            raise ValueError(f"is no readable image: {type(error).__name__}") from None
        scale = max(self.height / image.height, self.width / image.width)
        if scale > self.most_upscaling:
            raise ValueError(f"has {image.height} x {image.width} pixels, too few")
        size = max(self.width, round(image.width * scale)), max(self.height, round(image.height * scale))
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        cut = image.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + self.width, top + self.height))
        return np.asarray(cut, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1


def upright_rgb(opened: Image.Image) -> Image.Image:
    """An image as a viewer shows it: turned as its EXIF says, transparent parts on white, 16 bits of grey as 8.

    Raises:
        ValueError: for pixels of 32 bits, whose range nobody knows.
    """
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) // 257).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        raise ValueError(f"pixels of mode {image.mode}")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


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


def cache_folder(root: Path, codec: str, fitting: Fitting) -> Path:
    """The folder of one codec and one size.

    Args:
        root: Of all latents.
        codec: Digest of the codec's weights and configuration.
        fitting: The size, and what is left out.
    """
    facts = f"{READER} {codec} {fitting.height} {fitting.width} {fitting.most_upscaling}"
    return root / hashlib.sha256(facts.encode()).hexdigest()[:32]


def encode_shards(
    shards: Sequence[Shard],
    folder: Path,
    fitting: Fitting,
    codec: Callable[[], Callable[[Tensor], Tensor]],
    shape: tuple[int, int, int],
    skipped: Skipped,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[Path]:
    """Encode the shards that are not there yet; returns the files of all of them, in order.

    Args:
        shards: The data set.
        folder: Where the files are; made if it is missing.
        fitting: The size of images.
        codec: Asked, for each shard that is not there, for a function from images `[b, 3, H, W]` in [-1, 1] to latents
            `[b, c, h, w]`.
        shape: Of a latent.
        skipped: Counts what is left out.
        progress: Told how many of the shards are done.

    Raises:
        UserError: if too many images cannot be used, or the folder cannot be written.
    """
    files = [encoded_file(folder, shard) for shard in shards]
    make_cache(folder)
    for done, (shard, file) in enumerate(zip(shards, files, strict=True)):
        progress(done, len(shards))
        if not file.exists():
            write_latents(file, shape, _encoded(shard, fitting, codec(), skipped))
    progress(len(shards), len(shards))
    return files


def _encoded(shard: Shard, fitting: Fitting, encode: Callable[[Tensor], Tensor], skipped: Skipped) -> Iterator[Batch]:
    items: list[CaptionedImage] = []
    images: list[np.ndarray] = []
    for item in shard.read():
        try:
            images.append(fitting.fitted(item))
        except ValueError as error:
            skipped.add(item.name, str(error))
            continue
        items.append(item)
        if len(items) == BATCH:
            yield _batch(items, images, encode)
            items, images = [], []
    if items:
        yield _batch(items, images, encode)


def _batch(items: list[CaptionedImage], images: list[np.ndarray], encode: Callable[[Tensor], Tensor]) -> Batch:
    pixels = torch.from_numpy(np.stack(images))
    captions = [" ".join(item.caption.split()) for item in items]
    return [item.name for item in items], captions, encode(pixels), thumbnails(pixels)


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
    """Latents in the files of `encode_shards`, mapped into memory: only rows that are asked for are read.

    Args:
        files: The files.
        shape: (c, h, w); the files must say the same.

    Attributes:
        captions: Of every row.
        thumbnails: `[n, 3, 8, 8]`, in [-1, 1].

    Raises:
        UserError: if a file is damaged or has latents of another shape.
    """

    def __init__(self, files: Sequence[Path], shape: tuple[int, int, int]) -> None:
        self.shape = shape
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

    def __getitem__(self, rows: Tensor) -> Float[Tensor, "n c h w"]:
        """The latents of some rows, copied."""
        places = [self._places[int(row)] for row in rows]
        found = [self._columns[column][row] for column, row in places]
        return torch.from_numpy(np.stack(found)) if found else torch.empty(0, *self.shape)
