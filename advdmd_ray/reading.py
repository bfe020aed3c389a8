"""What others' folders and text files hold: which files are no data, and what a text says, whatever wrote it."""

import codecs
import unicodedata

FOREIGN_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
FOREIGN_FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
)
"""Of macOS, Windows and network drives, in lower case; what begins with a dot is hidden, and no data either."""
STREAM = ":zone.identifier"
"""Where Windows says that a file was downloaded, in lower case, once another system has copied it."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks and what they stand for."""
MOST_NULS = 4
"""A text of which more than one character in so many is NUL is of another encoding."""


POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that stands for one that Git LFS has not fetched."""
POINTED = "is a pointer of Git LFS, and not the file itself; fetch that with git lfs pull"


class NotTextError(ValueError):
    """Bytes are no text of the encoding that they say.

    Args:
        reason: What they are, and what to do.
        place: The byte where that shows.
    """

    def __init__(self, reason: str, place: int) -> None:
        super().__init__(reason)
        self.place = place


def foreign_part(name: str) -> str | None:
    """The file or topmost folder in a name that a system keeps for itself, or hides, beside data; None: there is none.

    Args:
        name: Of a file, in the folder that is read; a folder's name in the result ends with a slash.
    """
    parts = name.split("/")
    for place, part in enumerate(parts):
        folder = place < len(parts) - 1
        if is_foreign(part, folder=folder):
            return "/".join(parts[: place + 1]) + ("/" if folder else "")
    return None


def is_foreign(part: str, *, folder: bool) -> bool:
    """Whether a file or folder of this name is none of the data; see `foreign_part`."""
    hidden = part.startswith(".") and part not in {".", ".."}
    hidden = hidden or part.lower().endswith(STREAM)
    return hidden or part.lower() in (FOREIGN_FOLDERS if folder else FOREIGN_FILES)


def decoded(content: bytes) -> str:
    """A text by its byte order mark, or else as UTF-8; without the mark.

    Raises:
        NotTextError: with what is wrong: nothing is guessed or replaced, as it would be learnt.
    """
    if content.startswith(POINTER):
        raise NotTextError(POINTED, 0)
    mark, coding = next(((mark, coding) for mark, coding in MARKS if content.startswith(mark)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(coding)
    except UnicodeDecodeError as error:
        place = len(mark) + error.start
        raise NotTextError(f"is not {coding.upper()}; save the file as UTF-8", place) from None
    if text.count("\0") * MOST_NULS > len(text):
        raise NotTextError("holds NUL characters, as UTF-16 without a mark does; save the file as UTF-8", 0)
    return text


def text_lines(text: str) -> list[str]:
    r"""Lines that end with `\n` or `\r\n`: what else Unicode calls a separator may stand in one."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def text_fault(text: str) -> str | None:
    """What keeps a caption or a prompt from being read by a tokenizer and seen by a person, or None."""
    if is_blank(text):
        return "is empty"
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Cs":
            return f"has half a character, U+{ord(character):04X}"
        if kind == "Cc" and not character.isspace():
            return f"has the control character U+{ord(character):04X}"
    return None


def is_blank(text: str) -> bool:
    """Whether nobody would see anything of it."""
    return all(character.isspace() or unicodedata.category(character) == "Cf" for character in text)


def shown(name: str) -> str:
    """A name for a message: what is no printable character, or half of one, by its escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in name)
