"""What is found where images stand: images with captions, and what is left out with the reason."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from advdmd_ray.errors import UserError

FOREIGN = "is hidden, or belongs to a system"
NO_IMAGE = "is no image that is read here"
NO_CAPTION = "has no caption"


MOST_IMAGE, MOST_TEXT = 2**30, 2**26
"""Bytes of an image, which has fewer even with 16 bits of the most pixels, and of a file beside it."""


class TooLargeError(ValueError):
    """A file has more bytes than anybody reads at once; it may be one with holes, which takes no room on the disk."""

    def __init__(self, most: int) -> None:
        super().__init__(f"has more than {most // 2**20} MiB")


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image as it stands on disk.

    Attributes:
        name: What to call it in a message: its file, or its place in one.
        caption: Its text; empty if there is none.
        content: The encoded image.
        fault: Why it cannot be used, where whoever read it knows; empty: nothing is known.
        more_captions: Whether it has others too, which are not used.
    """

    name: str
    caption: str
    content: bytes
    fault: str = ""
    more_captions: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that was found and is not used.

    Attributes:
        name: As of an image.
        reason: Why; what differs from one to the next of a kind stands in brackets at its end.
        lost: Whether it is an image, or should have been one: those count against `data.most_skipped`.
    """

    name: str
    reason: str
    lost: bool


Item: TypeAlias = CaptionedImage | LeftOut


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a data set that is read, encoded and stored as a whole: plain data, which may travel to a worker.

    Attributes:
        name: For messages.
        identity: Changes whenever the files behind it do (their paths, sizes and times of change).
        read: Yields what it holds, always in the same order, one after the other.
        images: How many images it has at most; None: that is known only once it is read.
    """

    name: str
    identity: str
    read: Callable[[], Iterator[Item]]
    images: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A data set before an image of it is read.

    Attributes:
        shards: Its parts.
        left_out: What stands beside them.
    """

    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...] = ()


def identity_of(files: Sequence[Path | str], *more: str) -> str:
    """A digest of the facts of files with absolute names.

    Raises:
        UserError: if one is no longer there.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            facts = os.stat(file)  # noqa: PTH116 - a path for each of many files would take longer than this
        except OSError as error:
            raise unread(file, error) from None
        digest.update(f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode(errors="surrogateescape"))
    for part in more:
        digest.update(f"{part}\0".encode(errors="surrogatepass"))  # JSON may say half a character
    return digest.hexdigest()


def unread(file: Path | str, error: OSError) -> UserError:
    """What to say of a file that cannot be read."""
    return UserError(
        f"{file}: cannot be read ({error.strerror}); on several machines data.path must be a folder that all of them "
        "see, and it must not change during a run"
    )
