"""Captioned images in tars, as WebDataset has them: files of one name belong together."""

import bz2
import functools
import gzip
import lzma
import math
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from advdmd_ray.data.files.captions import said_beside
from advdmd_ray.data.files.fitting import is_image
from advdmd_ray.data.files.items import (
    MOST_IMAGE,
    MOST_TEXT,
    NO_IMAGE,
    CaptionedImage,
    Item,
    LeftOut,
    Shard,
    TooLargeError,
    identity_of,
    unread,
)
from advdmd_ray.data.files.pairing import IMAGE_SUFFIXES, Picture, sort_out, suffix_of
from advdmd_ray.data.files.tables import TableError
from advdmd_ray.errors import UserError
from advdmd_ray.reading import POINTED, POINTER, shown

TAR_ENDS = (
    *(".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".tar.z"),
)
UNREAD = {b"\x28\xb5\x2f\xfd": "Zstandard", b"\x04\x22\x4d\x18": "LZ4", b"\x1f\x9d": "compress", b"PK\3\4": "zip"}
"""How files begin that Python's library does not unpack as a stream."""
DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
BLOCK = tarfile.BLOCKSIZE
READ_AT_ONCE = 2**20
PART_BYTES = 2**28
"""Of a larger tar, about as many make one shard."""
PLAIN, PLAIN_AT = b"ustar", 257
"""What a header of a plain tar says, and where."""
Stream: TypeAlias = IO[bytes] | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar."""

    tar: tarfile.TarFile
    info: tarfile.TarInfo

    @property
    def name(self) -> str:
        """Its path in the tar."""
        return self.info.name.removeprefix("./")

    @property
    def is_file(self) -> bool:
        """Whether it is one, or a link to one."""
        return self.info.isfile() or self.info.islnk() or self.info.issym()

    def opened(self) -> IO[bytes] | None:
        """Its content; None of a link whose target is not in the tar, or that leads back to itself."""
        try:
            return self.tar.extractfile(self.info)
        except (KeyError, RecursionError):
            return None

    def content(self, most: float = math.inf) -> bytes:
        """All of it.

        Raises:
            TooLargeError: if that is more than so many bytes.
        """
        stream = self.opened()
        if stream is None:
            return b""
        if stream.seek(0, os.SEEK_END) > most:
            raise TooLargeError(int(most))
        stream.seek(0)
        return stream.read()


@dataclass(frozen=True, slots=True)
class TarReader:
    """Reads a tar, or a part of its images; it first lists all members: the tar ends where its mark is, or is damaged.

    Attributes:
        root: The folder.
        name: Of the tar in it.
        column: `data.caption_column`.
        part: Which of the parts; the first has what is no image too.
        parts: In how many the tar is read.
    """

    root: Path
    name: str
    column: str
    part: int = 0
    parts: int = 1

    def __call__(self) -> Iterator[Item]:
        """Yields its images.

        Raises:
            UserError: if it is damaged or no longer there, or a table of captions in it is none.
        """
        file = self.root / self.name
        with ExitStack() as opened:
            try:
                stream = opened.enter_context(_uncompressed(file))
                everything = list(_members(stream, opened))
                yield from self._items(everything)
            except TableError as error:
                raise UserError(f"{self.root}/{error}") from None
            except DAMAGED as error:
                raise UserError(f"{file}: is not a whole tar file ({error}); copy it again") from None
            except OSError as error:
                raise unread(file, error) from None

    def _items(self, everything: Sequence[Member]) -> Iterator[Item]:
        if not everything and self.part == 0:
            yield LeftOut(shown(self.name), "holds nothing", lost=False)
        members = [each for each in everything if each.is_file]
        names = [member.name for member in members]
        for each in everything if self.part == 0 else ():
            if not (each.info.isdir() or each.is_file):
                yield LeftOut(self._called(each.name), "is no file", lost=False)
        pictures, left_out = sort_out(names, lambda entry: members[entry].content(), self.column, self._called)
        first, end = (len(pictures) * part // self.parts for part in (self.part, self.part + 1))
        seen = Counter[str]()
        for place, picture in enumerate(pictures):
            name = names[picture.entry]
            seen[name] += 1
            if first <= place < end:
                called = self._called(name) + (f", number {seen[name]} of this name" if seen[name] > 1 else "")
                yield self._item(called, picture, members)
        if self.part == 0:
            yield from left_out

    def _item(self, called: str, picture: Picture, members: Sequence[Member]) -> Item:
        member = members[picture.entry]
        suffix, stream = suffix_of(member.name), member.opened()
        if stream is None:
            return LeftOut(called, "is a link that leads nowhere", lost=suffix in IMAGE_SUFFIXES)
        if suffix not in IMAGE_SUFFIXES and not is_image(stream):
            return LeftOut(called, f"{NO_IMAGE} ({suffix or 'no suffix'})", lost=False)
        try:
            content = member.content(MOST_IMAGE)
        except TooLargeError as error:
            return LeftOut(called, str(error), lost=True)
        texts = (
            (shown(each.name), functools.partial(each.content, MOST_TEXT))
            for each in (members[entry] for entry in picture.beside)
        )
        said = said_beside(texts, self.column, picture.said)
        return CaptionedImage(called, said.caption, content, said.fault, said.several)

    def _called(self, name: str) -> str:
        return f"{shown(self.name)}: {shown(name)}"


def tar_shards(root: Path, name: str, column: str) -> Iterator[Shard]:
    """A shard of a tar, or several of a large one.

    How many images it has is known only once it is listed, which is left to those who encode them: a large tar is cut
    by its size, and each part lists it again.

    Args:
        root: The folder.
        name: Of the tar in it.
        column: `data.caption_column`.

    Raises:
        UserError: if it cannot be read, or has been cut.
    """
    file = root / name
    parts = max(1, -(-check_end(file) // PART_BYTES))
    for part in range(parts):
        more, called = (), shown(name)
        if parts > 1:
            more, called = (f"{part} of {parts}",), f"{called}, part {part + 1} of {parts}"
        yield Shard(called, identity_of([file.absolute()], column, *more), TarReader(root, name, column, part, parts))


def check_end(file: Path) -> int:
    """Looks at the end of a plain tar alone, so that one that is cut is told before hours of encoding.

    Returns:
        The bytes of the file.

    Raises:
        UserError: if there is no mark of the end.
    """
    try:
        with file.open("rb") as stream:
            begin = stream.read(BLOCK)
            if begin.startswith(POINTER):
                raise UserError(f"{file}: {POINTED}")
            plain = begin[PLAIN_AT : PLAIN_AT + len(PLAIN)] == PLAIN
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1) // BLOCK * BLOCK)
            if plain and stream.read().strip(b"\0"):
                raise UserError(
                    f"{file}: is not a whole tar file (its last bytes are no mark of its end); copy it again"
                )
    except OSError as error:
        raise unread(file, error) from None
    return size


def _uncompressed(file: Path) -> Stream:
    """A tar's bytes, whatever they are compressed by.

    Raises:
        tarfile.ReadError: of a kind that is not known here.
        OSError: if it cannot be read.
    """
    with file.open("rb") as stream:
        begin = stream.read(6)
    if begin.startswith(b"\x1f\x8b"):
        return gzip.open(file)
    if begin.startswith(b"BZh"):
        return bz2.open(file)
    if begin.startswith(b"\xfd7zXZ\0"):
        return lzma.open(file)
    for mark, kind in UNREAD.items():
        if begin.startswith(mark):
            raise tarfile.ReadError(f"it is compressed by {kind}, which is not read here: unpack it")
    return file.open("rb")


def _members(stream: Stream, opened: ExitStack) -> Iterator[Member]:
    """The members of all tars in a stream, one behind the other as `cat` leaves them, up to the end of the last.

    `tarfile` takes a header that it cannot read for the end, and so does a file that was cut between two members.

    Raises:
        tarfile.TarError: if a tar has no mark of its end, which is a block of zeros, or something else is in its place.
    """
    start: int | None = 0
    while start is not None:
        stream.seek(start)
        tar = opened.enter_context(tarfile.TarFile(fileobj=stream, errorlevel=1))
        for info in tar:
            yield Member(tar, info)
        start = _next_tar(stream, tar.offset)


def _next_tar(stream: Stream, end: int) -> int | None:
    """Where another tar begins behind the end of one; None: nothing but zeros is there."""
    stream.seek(end)
    mark = stream.read(BLOCK)
    if not mark:
        raise tarfile.ReadError(f"it ends at byte {end} without the mark of its end")
    if mark.strip(b"\0"):
        raise tarfile.ReadError(f"there is no header of a member at byte {end}")
    place = end + len(mark)
    while part := stream.read(READ_AT_ONCE):
        if part.strip(b"\0"):
            return (place + len(part) - len(part.lstrip(b"\0"))) // BLOCK * BLOCK
        place += len(part)
    return None
