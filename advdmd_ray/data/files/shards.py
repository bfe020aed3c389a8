"""Where captioned images stand: a folder, Parquet files or WebDataset tars, in shards that are read one by one."""

import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from advdmd_ray.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
CAPTION_SUFFIXES = (".txt", ".caption")
METADATA = "metadata.jsonl"
"""Captions of a folder, one JSON object a line with `file_name` and `text`, as Hugging Face's `imagefolder` has it."""
FOLDER_SHARD = 256
"""Images of a folder that make one shard."""
ROWS_AT_ONCE = 64
"""Rows of a Parquet file that are in memory together."""


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image as it stands on disk.

    Attributes:
        name: What to call it in a message: its file, or its place in one.
        caption: Its text; empty if there is none.
        content: The encoded image.
    """

    name: str
    caption: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a data set that is read, encoded and stored as a whole: plain data, which may travel to a worker.

    Attributes:
        name: For messages.
        identity: Changes whenever the files behind it do (their paths, sizes and times of change).
        read: Yields its images, always in the same order, one after the other.
        images: How many it has; None: that is known only once it is read.
    """

    name: str
    identity: str
    read: Callable[[], Iterator[CaptionedImage]]
    images: int | None = None


def find_shards(path: str, *, image_column: str = "image", caption_column: str = "text") -> tuple[Shard, ...]:
    """Look at a path without reading images.

    * A folder of images, at any depth: captions from `metadata.jsonl` at its top, or else from a text file of the
      image's name beside it.
    * `.parquet` files, or a folder of them: a row group each; the image column holds bytes, or `{bytes, path}` as
      Hugging Face's data sets have it.
    * `.tar` files, or a folder of them, in WebDataset's layout: members of one name before the first dot belong
      together.

    Args:
        path: File or folder.
        image_column: Of Parquet files.
        caption_column: Of Parquet files.

    Raises:
        UserError: nothing is there, or nothing that is known, or a Parquet file lacks a column.
    """
    root = Path(path).expanduser()
    if root.is_file():
        folder, names = root.parent, [root.name]
    elif root.is_dir():
        folder, names = root, _names_in(root)
    else:
        raise UserError(f"data.path {root}: no such file or folder; give a folder of images, or .parquet or .tar files")
    parquet = [folder / name for name in names if _suffix(name) == ".parquet"]
    if parquet:
        columns = (image_column, caption_column)
        return tuple(shard for file in parquet for shard in _parquet_shards(file, columns))
    tars = [folder / name for name in names if _suffix(name) == ".tar"]
    if tars:
        return tuple(Shard(file.name, _identity([file.absolute()]), TarReader(file)) for file in tars)
    images = [name for name in names if _suffix(name).lower() in IMAGE_SUFFIXES]
    if not images:
        raise UserError(
            f"data.path {root}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}), no .parquet and no .tar file"
        )
    if root.is_file():
        beside = _caption_file(root)
        names = names if beside is None else [*names, beside.name]
    return tuple(_folder_shards(folder, images, frozenset(names)))


def _names_in(root: Path) -> list[str]:
    """All files in a folder, at any depth, by their names in it, ordered part by part.

    A folder says itself what is a file in it: with hundreds of thousands of files, asking for each takes most of the
    time. Links to files are followed, links to folders are not.
    """
    found, folders = list[str](), [""]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(root / folder))
        except PermissionError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{folder}{entry.name}/")
            elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_file()):
                found.append(f"{folder}{entry.name}")
    return sorted(found, key=lambda name: name.split("/"))


def _suffix(name: str) -> str:
    """As `PurePath.suffix` has it."""
    last = name.rpartition("/")[2]
    dot = last.rfind(".")
    return last[dot:] if 0 < dot < len(last) - 1 else ""


def _identity(files: Sequence[Path | str], *more: str) -> str:
    """Of files with absolute names."""
    digest = hashlib.sha256()
    for file in files:
        facts = os.stat(file)  # noqa: PTH116 - a path for each of many files would take longer than this
        digest.update(f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
    for part in more:
        digest.update(f"{part}\0".encode())
    return digest.hexdigest()


# Folders ------------------------------------------------------------------------------------------------------------


def _folder_shards(root: Path, images: Sequence[str], there: AbstractSet[str]) -> Iterator[Shard]:
    table, absolute = root / METADATA, str(root.absolute())
    listed = _metadata(table) if table.is_file() else None
    for number, first in enumerate(range(0, len(images), FOLDER_SHARD)):
        names = tuple(images[first : first + FOLDER_SHARD])
        if listed is None:
            captions = None
            sources = [*names, *(found for name in names if (found := _caption_name(name, there)) is not None)]
        else:  # only its own: a shard travels to a worker
            captions = tuple(listed.get(name, "") for name in names)
            sources = [*names, METADATA]
        identity = _identity([os.path.join(absolute, name) for name in sources])  # noqa: PTH118 - as in `_identity`
        yield Shard(f"{root.name}-{number:05d}", identity, FolderReader(root, names, captions), len(names))


def _caption_name(image: str, there: AbstractSet[str]) -> str | None:
    """`_caption_file` by the names that are there."""
    stem = image.removesuffix(_suffix(image))
    return next((name for suffix in CAPTION_SUFFIXES if (name := f"{stem}{suffix}") in there), None)


def _caption_file(image: Path) -> Path | None:
    return next((file for suffix in CAPTION_SUFFIXES if (file := image.with_suffix(suffix)).is_file()), None)


@dataclass(frozen=True, slots=True)
class FolderReader:
    """Reads some images of a folder.

    Attributes:
        root: The folder.
        names: Of the images, in it.
        captions: Of each; None: they stand in files beside them.
    """

    root: Path
    names: tuple[str, ...]
    captions: tuple[str, ...] | None

    def __call__(self) -> Iterator[CaptionedImage]:
        """Yields them.

        Raises:
            UserError: if one is no longer there.
        """
        for place, name in enumerate(self.names):
            file = self.root / name
            try:
                content = file.read_bytes()
            except OSError as error:
                raise _unread(file, error) from None
            if self.captions is not None:
                caption = self.captions[place]
            else:
                beside = _caption_file(file)
                caption = "" if beside is None else beside.read_text(encoding="utf-8", errors="replace")
            yield CaptionedImage(name, caption, content)


def _unread(file: Path, error: OSError) -> UserError:
    return UserError(
        f"{file}: cannot be read ({error.strerror}); on several machines data.path must be a folder that all of them "
        "see, and it must not change during a run"
    )


def _metadata(table: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    # Captions may hold the other line separators of Unicode; a line of JSON ends with a line feed.
    for number, line in enumerate(table.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        entry = _entry(line)
        if entry is None:
            raise UserError(f"{table}, line {number}: expected a JSON object with file_name and text; correct the line")
        name, text = entry
        captions[name] = text
    return captions


def _entry(line: bytes) -> tuple[str, str] | None:
    """File name and text of a line, or None if it is not made so."""
    try:
        entry = json.loads(line.decode("utf-8-sig"))
    except ValueError:
        return None
    name, text = (entry.get(key) for key in ("file_name", "text")) if isinstance(entry, dict) else (None, None)
    return (name, text) if isinstance(name, str) and isinstance(text, str) else None


# Parquet ------------------------------------------------------------------------------------------------------------


def _parquet_shards(file: Path, columns: tuple[str, str]) -> Iterator[Shard]:
    try:
        opened = pq.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: is not a whole Parquet file ({error}); copy it again") from None
    with opened:
        names = opened.schema_arrow.names
        rows = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
    for key, column in zip(("data.image_column", "data.caption_column"), columns, strict=True):
        if column not in names:
            raise UserError(f"{file}: has no column {column!r}; set {key} to one of: {', '.join(names)}")
    for group, count in enumerate(rows):
        identity = _identity([file.absolute()], str(group), *columns)
        yield Shard(f"{file.name}-{group:05d}", identity, ParquetReader(file, group, columns), count)


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """Reads a row group.

    Attributes:
        file: The Parquet file.
        group: The row group's number.
        columns: Of images and of captions.
    """

    file: Path
    group: int
    columns: tuple[str, str]

    def __call__(self) -> Iterator[CaptionedImage]:
        """Yields its images.

        Raises:
            UserError: if the file is no longer there.
        """
        try:
            opened = pq.ParquetFile(self.file)
        except OSError as error:
            raise _unread(self.file, error) from None
        with opened:
            parts = opened.iter_batches(ROWS_AT_ONCE, row_groups=[self.group], columns=list(self.columns))
            for row, values in enumerate(values for part in parts for values in part.to_pylist()):
                image, caption = values[self.columns[0]], values[self.columns[1]]
                content = image.get("bytes") if isinstance(image, dict) else image
                yield CaptionedImage(
                    f"{self.file.name}, row {row} of group {self.group}",
                    caption if isinstance(caption, str) else "",
                    content if isinstance(content, bytes) else b"",
                )


# WebDataset ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TarReader:
    """Reads a tar in WebDataset's layout.

    Attributes:
        file: The tar.
    """

    file: Path

    def __call__(self) -> Iterator[CaptionedImage]:
        """Yields its images.

        Raises:
            UserError: if it is damaged or no longer there.
        """
        file = self.file
        try:
            with tarfile.open(file) as tar:
                members = ((_split(member.name), member) for member in tar if member.isfile())
                for key, group in itertools.groupby(members, key=lambda entry: entry[0][0]):
                    parts = {suffix: _content(tar, member) for (_, suffix), member in group}
                    image = next((parts[suffix] for suffix in parts if suffix in IMAGE_SUFFIXES), None)
                    if image is not None:
                        yield CaptionedImage(f"{file.name}: {key}", _tar_caption(parts), image)
        except tarfile.TarError as error:
            raise UserError(f"{file}: is not a whole tar file ({error}); copy it again") from None
        except OSError as error:
            raise _unread(file, error) from None


def _split(name: str) -> tuple[str, str]:
    """A member's name up to the first dot of its last part, and what comes after, as a suffix."""
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return b"" if stream is None else stream.read()


def _tar_caption(parts: Mapping[str, bytes]) -> str:
    for suffix in CAPTION_SUFFIXES:
        if suffix in parts:
            return parts[suffix].decode("utf-8", errors="replace")
    if ".json" in parts:
        try:
            entry = json.loads(parts[".json"])
        except ValueError:
            return ""
        found = entry.get("text", entry.get("caption")) if isinstance(entry, dict) else None
        return found if isinstance(found, str) else ""
    return ""
