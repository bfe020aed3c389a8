"""Captions of a folder in one table of it, as Hugging Face's `imagefolder` has them: `metadata.jsonl` and its like."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from advdmd_ray.data.files.captions import Said, caption_in, caption_keys, strict_json
from advdmd_ray.errors import UserError
from advdmd_ray.reading import NotTextError, decoded, shown, text_lines

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
"""In lower case; where a folder has several, the first that knows an image counts."""
FILE = "file_name"
LONGEST_FIELD = 2**20
"""Characters of a field of a CSV file."""


class TableError(UserError):
    """A table of captions is none; begins with its name in the folder or tar that it is in."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a table says of an image.

    Attributes:
        place: Where it says so, for messages.
        file: The image's name in the table's folder.
        said: Its caption.
    """

    place: str
    file: str
    said: Said


def entries(name: str, content: bytes, column: str) -> tuple[Entry, ...]:
    """All entries of a table.

    Args:
        name: Of the table, for messages; its suffix says what it is.
        content: Its bytes.
        column: `data.caption_column`.

    Raises:
        TableError: if it is no such table; names the line.
    """
    rows = {"jsonl": _json_lines, "csv": _csv, "tsv": _csv, "parquet": _parquet}[name.rpartition(".")[2].lower()]
    found: list[Entry] = []
    keys, captioned = dict[str, None](), False
    for place, row in rows(name, content):
        file = row.get(FILE)
        if not isinstance(file, str) or not file.strip():
            raise TableError(f"{place}: expected {FILE} and a caption, such as text; correct the line")
        own = {key: row[key] for key in caption_keys(column) if key in row}
        keys |= dict.fromkeys(row)
        captioned = captioned or bool(own)
        # Windows writes its own separators.
        found.append(Entry(place, file.strip().replace("\\", "/"), caption_in(list(own.values()), column)))
    if found and not captioned:
        raise TableError(
            f"{name}: has no {', '.join(caption_keys(column))}; set data.caption_column to one of: "
            f"{', '.join(map(shown, keys))}"
        )
    return tuple(found)


def _text(name: str, content: bytes) -> str:
    try:
        return decoded(content)
    except NotTextError as error:
        line = content.count(b"\n", 0, error.place) + 1
        raise TableError(f"{name}, line {line}: {error}") from None


def _json_lines(name: str, content: bytes) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in enumerate(text_lines(_text(name, content)), start=1):
        if not line.strip():
            continue
        try:
            row = strict_json(line)
        except ValueError as error:
            raise TableError(f"{name}, line {number}: {error}; correct the line") from None
        if not isinstance(row, dict):
            raise TableError(f"{name}, line {number}: expected a JSON object with {FILE} and text; correct the line")
        yield f"{name}, line {number}", row


def _csv(name: str, content: bytes) -> Iterator[tuple[str, Mapping[str, object]]]:
    text = _text(name, content)
    head = text.lstrip().replace("\r", "\n").partition("\n")[0]  # of an old Mac too
    delimiter = max(",;\t", key=head.count)
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        stream = io.StringIO(text, newline="")
        # A space before a quote would make that, and what is behind it, part of the caption.
        rows = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
        names = [key.strip() for key in next(filter(any, rows), [])]
        if FILE not in names:
            raise TableError(
                f"{name}: has no column {FILE}, which says the image of a line; its columns: "
                f"{', '.join(map(shown, names))}"
            )
        _check_names(name, names)
        for row in rows:
            if not any(map(str.strip, row)):  # as sheets leave them
                continue
            place = f"{name}, line {rows.line_num}"
            if len(row) != len(names):
                raise TableError(f"{place}: has {len(row)} fields, and the first line {len(names)}; correct the line")
            yield place, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise TableError(f"{name}: is no whole CSV file ({error}); correct it, or copy it again") from None
    finally:
        csv.field_size_limit(before)


def _parquet(name: str, content: bytes) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            table = file.read()
    except (OSError, ValueError, pa.ArrowException) as error:
        said = str(error).partition("\n")[0]
        raise TableError(f"{name}: is not a whole Parquet file ({said}); copy it again") from None
    _check_names(name, table.schema.names)
    for number in range(len(table)):
        try:
            (row,) = table.slice(number, 1).to_pylist()
        except (ValueError, OverflowError) as error:  # Arrow takes text to be UTF-8, and looks when it is asked for
            raise TableError(f"{name}, row {number}: cannot be read ({error}); correct the row") from None
        yield f"{name}, row {number}", row


def _check_names(name: str, names: Sequence[str]) -> None:
    """Columns have names of their own; a comma behind each line makes some without any."""
    twice = next((each for each in names if each and names.count(each) > 1), None)
    if twice is not None:
        raise TableError(f"{name}: has the column {twice!r} twice; rename one")


def is_table(name: str) -> bool:
    """Whether a file is a table of captions by its name."""
    return name.rpartition("/")[2].lower() in TABLES
