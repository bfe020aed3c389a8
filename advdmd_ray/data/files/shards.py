"""Where captioned images stand: a folder, Parquet files or tars, or all of them beside each other."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from advdmd_ray.data.files.folders import folder_shards, is_image_file, names_in
from advdmd_ray.data.files.items import Found, LeftOut, unread
from advdmd_ray.data.files.pairing import IMAGE_SUFFIXES, suffix_of
from advdmd_ray.data.files.parquet import missing_parts, parquet_shards
from advdmd_ray.data.files.tables import FILE, is_table
from advdmd_ray.data.files.tars import TAR_ENDS, tar_shards
from advdmd_ray.errors import UserError
from advdmd_ray.reading import shown

NAMED = 5
"""Files that a message names."""


def find_shards(
    path: str, own: Sequence[Path] = (), /, *, image_column: str = "image", caption_column: str = "text"
) -> Found:
    """Look at a path without reading images. Whatever is there is in a shard, or left out with the reason.

    * Images in a folder, at any depth: captions from `metadata.jsonl`, `.csv`, `.tsv` or `.parquet` in the nearest
      folder above an image that has one, or else from a file of the image's name: `.txt`, `.caption` or `.json`.
    * `.parquet` files, by row groups; the image column holds bytes, or `{bytes, path}` as Hugging Face's data sets
      have it.
    * `.tar` files, compressed or not, in WebDataset's layout: the same rules as in a folder.

    Args:
        path: File or folder.
        own: Folders that runs write; what is in them is left out.
        image_column: Of Parquet files.
        caption_column: Of Parquet files; elsewhere a name of captions beside `text`, `caption` and `prompt`.

    Raises:
        UserError: nothing is there, or nothing that is known, or a Parquet file lacks a column.
    """
    try:
        root = Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.path {path}: names the folder of a user whom nobody knows ({error})") from None
    try:
        if root.is_file():
            folder, (names, left_out) = root.parent, (_with_captions(root), list[LeftOut]())
        elif root.is_dir():
            folder, (names, left_out) = root, names_in(root, own)
        else:
            raise UserError(
                f"data.path {root}: no such file or folder; give a folder of images, or .parquet or .tar files"
            )
    except OSError as error:
        raise unread(root, error) from None
    parquet = [
        name for name in names if suffix_of(name) == ".parquet" and not _lists_images(folder / name, image_column)
    ]
    tars = [name for name in names if name.lower().endswith(TAR_ENDS)]
    in_shards = {*parquet, *tars}
    others = [name for name in names if name not in in_shards]
    columns = (image_column, caption_column)
    rows = {name: [*parquet_shards(folder, name, columns)] for name in parquet}
    left_out += [LeftOut(shown(name), "holds nothing", lost=False) for name, found in rows.items() if not found]
    shards = [shard for found in rows.values() for shard in found]
    shards += [shard for name in tars for shard in tar_shards(folder, name, caption_column)]
    left_out += missing_parts([*parquet, *tars])
    named = any(suffix_of(name) in IMAGE_SUFFIXES for name in others)
    if not (shards or named or any(is_image_file(folder / name) for name in others)):
        raise UserError(f"data.path {root}: {_nothing(others, left_out)}")
    found = folder_shards(folder, others, caption_column)
    return Found((*shards, *found.shards), (*left_out, *found.left_out))


def _with_captions(file: Path) -> list[str]:
    """A file, and those beside it that may hold its caption."""
    if suffix_of(file.name) not in IMAGE_SUFFIXES:
        return [file.name]
    beside = (each.name for each in file.parent.iterdir() if each.stem == file.stem and each.is_file())
    return [file.name, *sorted(name for name in beside if suffix_of(name) in {".txt", ".caption", ".json"})]


def _lists_images(file: Path, image_column: str) -> bool:
    """Whether a Parquet file is a table of captions, and holds no images."""
    if not is_table(file.name):
        return False
    try:
        names = pq.read_schema(file).names
    except (OSError, ValueError, pa.ArrowException):
        return False  # whoever opens it says what is wrong
    return FILE in names and image_column not in names


def _nothing(names: Sequence[str], left_out: Sequence[LeftOut]) -> str:
    """What to say where no file is an image by its name."""
    said = [*map(shown, names), *(each.name for each in left_out)]
    what = ", ".join(said[:NAMED]) + (", ..." if len(said) > NAMED else "") if said else "nothing"
    return f"holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}), no .parquet and no .tar file, but {what}"
