"""Captioned images in a folder, at any depth."""

import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from advdmd_ray.data.files.captions import Said, said_beside
from advdmd_ray.data.files.fitting import is_image
from advdmd_ray.data.files.items import (
    FOREIGN,
    MOST_IMAGE,
    MOST_TEXT,
    NO_IMAGE,
    CaptionedImage,
    Found,
    Item,
    LeftOut,
    Shard,
    TooLargeError,
    identity_of,
    unread,
)
from advdmd_ray.data.files.pairing import IMAGE_SUFFIXES, Picture, sort_out, suffix_of
from advdmd_ray.data.files.tables import TableError, is_table
from advdmd_ray.errors import UserError
from advdmd_ray.reading import is_foreign, shown

FOLDER_SHARD = 256
"""Images of a folder that make one shard."""


def names_in(root: Path, own: Sequence[Path] = ()) -> tuple[list[str], list[LeftOut]]:
    """All files in a folder, at any depth, by their names in it, ordered part by part; and what is none.

    A folder says itself what is a file in it: with hundreds of thousands of files, asking for each takes most of the
    time. Links are followed; a folder that several lead to, or that is inside itself, is read once.

    Args:
        root: The folder.
        own: Folders that runs write, which are none of the data.

    Raises:
        UserError: if the folder cannot be read.
    """
    listing = _Listing(root, own)
    listing.read([""])
    while listing.links:
        listing.read([listing.links.pop(0)])
    return sorted(listing.names, key=lambda name: name.split("/")), listing.left_out


class _Listing:
    def __init__(self, root: Path, own: Sequence[Path]) -> None:
        self._root = root
        self._own = {_which(folder.stat()) for folder in own if folder.is_dir()}
        self._seen = set[tuple[int, int]]()
        self.names: list[str] = []
        self.left_out: list[LeftOut] = []
        self.links: list[str] = []
        """Links to folders, which wait: what they lead to may be here by itself."""

    def read(self, folders: list[str]) -> None:
        """Reads folders and what is in them, but for links to folders."""
        while folders:
            folder = folders.pop()
            try:
                which = _which((self._root / folder).stat())
                if which in self._seen:
                    self._leave(folder, "is a link to a folder that is read already", lost=False)
                    continue
                if folder and which in self._own:
                    self._leave(folder, "is a folder that runs write", lost=False)
                    continue
                self._seen.add(which)
                inside = sorted(os.scandir(self._root / folder), key=lambda entry: entry.name)
            except OSError as error:
                if not folder:
                    raise unread(self._root, error) from None
                self._leave(folder, f"is a folder that cannot be read ({error.strerror})", lost=True)
                continue
            folders += [name for entry in inside if (name := self._taken(folder, entry)) is not None]

    def _taken(self, folder: str, entry: os.DirEntry[str]) -> str | None:
        """Takes an entry of a folder; returns the name of one that is a folder itself."""
        name = f"{folder}{entry.name}"
        is_folder = entry.is_dir(follow_symlinks=False)
        linked = Path(entry.path) if entry.is_symlink() else None
        is_folder = is_folder or (linked is not None and linked.is_dir())
        if is_foreign(entry.name, folder=is_folder):
            self._leave(f"{name}/" if is_folder else name, FOREIGN, lost=False)
        elif is_folder:
            if linked is None:
                return f"{name}/"
            self.links.append(f"{name}/")
        elif entry.is_file(follow_symlinks=False) or (linked is not None and linked.is_file()):
            self.names.append(name)
        else:
            reason = "is no file" if linked is None or linked.exists() else "is a link that leads nowhere"
            self._leave(name, reason, lost=suffix_of(name) in IMAGE_SUFFIXES)
        return None

    def _leave(self, name: str, reason: str, *, lost: bool) -> None:
        self.left_out.append(LeftOut(shown(name), reason, lost))


def _which(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def folder_shards(root: Path, names: Sequence[str], column: str) -> Found:
    """The shards of a folder's images, and what is no image.

    Args:
        root: The folder.
        names: Of files in it.
        column: `data.caption_column`.

    Raises:
        UserError: if a table of captions is none, or a file is no longer there.
    """
    try:
        pictures, left_out = sort_out(names, lambda entry: _content(root / names[entry]), column)
    except TableError as error:
        raise UserError(f"{root}/{error}") from None
    tables = [name for name in names if is_table(name)]
    absolute, shards = str(root.absolute()), []
    for number, first in enumerate(range(0, len(pictures), FOLDER_SHARD)):
        some = pictures[first : first + FOLDER_SHARD]
        sources = [names[picture.entry] for picture in some]
        sources += [names[entry] for picture in some for entry in picture.beside]
        # A table's own facts are not among them: another line of it is no reason to encode these images again.
        said = [_told(picture.said) for picture in some] if tables else []
        identity = identity_of([os.path.join(absolute, name) for name in sources], *said, column)  # noqa: PTH118 - as in `identity_of`
        reader = FolderReader(root, tuple(_travelling(picture, names) for picture in some), column)
        shards.append(Shard(f"{shown(root.name)}-{number:05d}", identity, reader, len(some)))
    return Found(tuple(shards), tuple(left_out))


def _told(said: Said) -> str:
    return f"{said.caption}\0{said.fault}" + ("\0several" if said.several else "")


def _travelling(picture: Picture, names: Sequence[str]) -> tuple[str, tuple[str, ...], Said]:
    return names[picture.entry], tuple(names[entry] for entry in picture.beside), picture.said


def is_image_file(file: Path) -> bool:
    """Whether a file is an image, whatever its name is.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return is_image(stream)
    except OSError as error:
        raise unread(file, error) from None


def _content(file: Path, most: float = math.inf) -> bytes:
    try:
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size > most:
                raise TooLargeError(int(most))
            return stream.read()
    except OSError as error:
        raise unread(file, error) from None


@dataclass(frozen=True, slots=True)
class FolderReader:
    """Reads some images of a folder: it knows their own captions alone, as it travels to a worker.

    Attributes:
        root: The folder.
        pictures: Of each the name in it, the names of files that may hold its caption, and what a table says.
        column: `data.caption_column`.
    """

    root: Path
    pictures: tuple[tuple[str, tuple[str, ...], Said], ...]
    column: str

    def __call__(self) -> Iterator[Item]:
        """Yields them.

        Raises:
            UserError: if one is no longer there.
        """
        for name, beside, table in self.pictures:
            file = self.root / name
            if suffix_of(name) not in IMAGE_SUFFIXES and not is_image_file(file):
                yield LeftOut(shown(name), f"{NO_IMAGE} ({suffix_of(name) or 'no suffix'})", lost=False)
                continue
            try:
                content = _content(file, MOST_IMAGE)
            except TooLargeError as error:
                yield LeftOut(shown(name), str(error), lost=True)
                continue
            texts = ((shown(each), functools.partial(_content, self.root / each, MOST_TEXT)) for each in beside)
            said = said_beside(texts, self.column, table)
            yield CaptionedImage(shown(name), said.caption, content, said.fault, said.several)
