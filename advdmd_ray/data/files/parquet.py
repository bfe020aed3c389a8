"""Captioned images in Parquet files, a row each."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from advdmd_ray.data.files.captions import caption_in
from advdmd_ray.data.files.items import CaptionedImage, Item, LeftOut, Shard, identity_of, unread
from advdmd_ray.errors import UserError
from advdmd_ray.reading import POINTED, POINTER, shown

ROWS_AT_ONCE = 64
"""Rows of a Parquet file that are in memory together, beside the page that they stand in."""
READ_AT_ONCE = 2**20
"""Bytes that are read of a file at a time: without a limit a row group is in memory as a whole."""
PART_ROWS = 1024
"""Rows of a larger row group that make one shard: some libraries write a file of any length as one group."""
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)")
"""How Hugging Face names the files of one set."""
_IMAGES = (
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
    *(pa.types.is_fixed_size_binary, pa.types.is_null),
)
_TEXTS = (*_IMAGES, pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def parquet_shards(root: Path, name: str, columns: tuple[str, str]) -> Iterator[Shard]:
    """A shard for each row group of a file, or several where that is large.

    Args:
        root: The folder.
        name: Of the file in it.
        columns: Of images and of captions.

    Raises:
        UserError: if it is no whole Parquet file, or lacks a column, or one holds what is neither.
    """
    file = root / name
    try:
        opened = pq.ParquetFile(file)
    except (FileNotFoundError, PermissionError) as error:
        raise unread(file, OSError(error.errno, os.strerror(error.errno or 0))) from None  # Arrow says more
    except (OSError, ValueError, pa.ArrowException) as error:
        with file.open("rb") as stream:
            if stream.read(len(POINTER)) == POINTER:
                raise UserError(f"{file}: {POINTED}") from None
        said = str(error).partition("\n")[0]
        raise UserError(f"{file}: is not a whole Parquet file ({said}); copy it again") from None
    with opened:
        schema = opened.schema_arrow
        headings = [shown(column) for column in schema.names]
        rows = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
    keys, kinds = ("data.image_column", "data.caption_column"), ("images", "captions")
    for key, column, kind in zip(keys, columns, kinds, strict=True):
        if schema.names.count(column) != 1:
            said = "has no column" if column not in schema.names else "has several columns"
            raise UserError(f"{file}: {said} {column!r}; set {key} to one of: {', '.join(headings)}")
        if not _may_hold(schema.field(column).type, captions=kind == "captions"):
            others = ", ".join(each for each in headings if each != column)
            raise UserError(
                f"{file}: the column {column!r} holds {schema.field(column).type}, no {kind}; set {key} to one of: "
                f"{others}"
            )
    for group, count in enumerate(rows):
        for first in range(0, count, PART_ROWS):
            part = range(first, min(count, first + PART_ROWS))
            more, called = (), f"{shown(name)}-{group:05d}"
            if len(part) < count:
                more, called = (f"{part}",), f"{called}, rows {first} to {part[-1]}"
            identity = identity_of([file.absolute()], str(group), *columns, *more)
            yield Shard(called, identity, ParquetReader(root, name, group, columns, part), len(part))


def _may_hold(kind: pa.DataType, *, captions: bool) -> bool:
    """Whether a column may hold encoded images, or captions, by its type."""
    if pa.types.is_dictionary(kind):
        return _may_hold(kind.value_type, captions=captions)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _may_hold(kind.value_type, captions=captions)
    if pa.types.is_struct(kind):
        return captions or any(field.name == "bytes" for field in kind)
    return (captions and pa.types.is_map(kind)) or any(fits(kind) for fits in (_TEXTS if captions else _IMAGES))


def missing_parts(names: Sequence[str]) -> list[LeftOut]:
    """Files of a numbered set that are not there."""
    sets: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for name in names:
        if (match := _NUMBERED.fullmatch(name)) is not None:
            sets[match[1], match[3], match[4]].add(int(match[2]))
    return [
        LeftOut(shown(f"{head}-{number:05d}-of-{count}{tail}"), "is not there, and others of its set are", lost=False)
        for (head, count, tail), found in sets.items()
        for number in range(int(count))
        if number not in found
    ]


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """Reads some rows of a row group, which stand behind all rows before them.

    Attributes:
        root: The folder.
        name: Of the Parquet file in it.
        group: The row group's number.
        columns: Of images and of captions.
        rows: Which of the group's.
    """

    root: Path
    name: str
    group: int
    columns: tuple[str, str]
    rows: range

    def __call__(self) -> Iterator[Item]:
        """Yields its images.

        Raises:
            UserError: if the file is no longer there, or damaged.
        """
        file = self.root / self.name
        try:
            opened = pq.ParquetFile(file, buffer_size=READ_AT_ONCE, pre_buffer=False)
        except OSError as error:
            raise unread(file, error) from None
        with opened:
            parts = opened.iter_batches(ROWS_AT_ONCE, row_groups=[self.group], columns=list(self.columns))
            begin = 0
            while begin < self.rows.stop:
                try:
                    part = next(parts, None)
                except (OSError, pa.ArrowException) as error:
                    said = str(error).partition("\n")[0]
                    raise UserError(f"{file}: is damaged in row group {self.group} ({said}); copy it again") from None
                if part is None:
                    return
                wanted = range(max(begin, self.rows.start), min(begin + len(part), self.rows.stop))
                for row in wanted:
                    image, caption = (part.column(column)[row - begin] for column in self.columns)
                    yield self._item(f"{shown(self.name)}, row {row} of group {self.group}", image, caption)
                begin += len(part)

    def _item(self, name: str, image: pa.Scalar, caption: pa.Scalar) -> CaptionedImage:
        try:
            content, fault = _image(image.as_py())
            said = caption_in(caption.as_py(), self.columns[1])
        except UnicodeDecodeError:  # Arrow takes text to be UTF-8, and looks when it is asked for
            return CaptionedImage(name, "", b"", "has text that is not UTF-8")
        except (ValueError, OverflowError) as error:
            return CaptionedImage(name, "", b"", f"has values that cannot be read ({type(error).__name__})")
        return CaptionedImage(name, said.caption, content, fault or said.fault, said.several)


def _image(value: object) -> tuple[bytes, str]:
    """The encoded image that a value holds, and why it holds none."""
    if isinstance(value, list):
        if len(value) != 1:
            return b"", f"is a list of images, of which one is needed (it has {len(value)})"
        return _image(value[0])
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
        if not value and path:
            return b"", f"has no image, but where one was (at {shown(str(path))})"
    return (value, "") if isinstance(value, bytes) and value else (b"", "has no image")
