"""Which files belong together: the same rule in a folder and in a tar, as both hold nothing but names.

An image's caption is in the nearest table above it (`tables.py`), or else in a file of its name before the last dot.
"""

import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from advdmd_ray.data.files.captions import NOTHING, Said
from advdmd_ray.data.files.items import FOREIGN, LeftOut
from advdmd_ray.data.files.tables import TABLES, Entry, entries, is_table
from advdmd_ray.reading import foreign_part, shown

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif"}
    | {".jp2", ".j2k", ".jpx", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".ico"}
)
"""Others are looked into."""
CAPTION_SUFFIXES = (".txt", ".caption", ".json")
"""The first that says something counts."""
SECOND = "is a second caption of one image"


@dataclass(frozen=True, slots=True)
class Picture:
    """What may be an image.

    Attributes:
        entry: Which of the names.
        beside: Those of the names that may hold its caption, the best first.
        said: What a table says.
    """

    entry: int
    beside: tuple[int, ...] = ()
    said: Said = NOTHING


def suffix_of(name: str) -> str:
    """As `PurePath.suffix` has it, in lower case."""
    last = name.rpartition("/")[2]
    dot = last.rfind(".")
    return last[dot:].lower() if 0 < dot < len(last) - 1 else ""


def _stem(name: str) -> str:
    return name[: len(name) - len(suffix_of(name))]


def _alike(name: str) -> str:
    """The same for names that differ in case, or in how an accent is written: Windows and macOS see one name."""
    return unicodedata.normalize("NFC", name).casefold()


def sort_out(
    names: Sequence[str], table: Callable[[int], bytes], column: str, called: Callable[[str], str] = shown
) -> tuple[list[Picture], list[LeftOut]]:
    """Pairs what may be images with what may be their captions.

    Args:
        names: Of files, with slashes; one that stands there twice is another file.
        table: The content of one of them.
        column: `data.caption_column`.
        called: What to call a file in a message.

    Returns:
        What may be images, in the order of the names, and what is neither that nor a caption of one.

    Raises:
        TableError: if a table of captions is none.
    """
    left_out, own = _without_foreign(names, called)
    tables = _Tables({entry: names[entry] for entry in own if is_table(names[entry])}, table, column, called)
    beside = _Beside({entry: names[entry] for entry in own if suffix_of(names[entry]) in CAPTION_SUFFIXES}, names)
    pictures = list[Picture]()
    for entry in own:
        if entry in beside.texts or entry in tables.entries:
            continue
        found = tables.of(names[entry])
        pictures.append(Picture(entry, beside.of(entry), NOTHING if found is None else found.said))
    left_out += [LeftOut(called(names[entry]), "is a caption without an image", lost=False) for entry in beside.left()]
    images = frozenset(names[picture.entry] for picture in pictures)
    return pictures, left_out + tables.left(images, frozenset(names))


def _without_foreign(names: Sequence[str], called: Callable[[str], str]) -> tuple[list[LeftOut], list[int]]:
    """Of folders that are foreign as a whole, one for all that is in them."""
    foreign, own = dict[str, None](), []
    for entry, name in enumerate(names):
        part = foreign_part(name)
        if part is None:
            own.append(entry)
        else:
            foreign[part] = None
    return [LeftOut(called(part), FOREIGN, lost=False) for part in foreign], own


class _Beside:
    """Files of captions, by the names of the images that they belong to.

    Args:
        texts: Their names.
        names: Of all files.
    """

    def __init__(self, texts: Mapping[int, str], names: Sequence[str]) -> None:
        self.texts = texts
        self._copies, seen = [0] * len(names), Counter[str]()
        for entry, name in enumerate(names):
            self._copies[entry] = seen[name]
            seen[name] += 1
        self._stems = [_stem(name) for name in names]
        self._exact: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._alike: dict[tuple[str, int], list[int]] = defaultdict(list)
        for entry in sorted(texts, key=lambda entry: CAPTION_SUFFIXES.index(suffix_of(texts[entry]))):
            key = self._stems[entry], self._copies[entry]
            self._exact[key].append(entry)
            self._alike[_alike(key[0]), key[1]].append(entry)
        self._taken = set[int]()

    def of(self, image: int) -> tuple[int, ...]:
        """Those of an image; of a name that is only alike, if there is none of its own."""
        key = self._stems[image], self._copies[image]
        found = self._exact.get(key)
        if found is None:
            found = self._alike.get((_alike(key[0]), key[1]), [])
            found = found if len({self._stems[entry] for entry in found}) == 1 else []
        self._taken.update(found)
        return tuple(found)

    def left(self) -> list[int]:
        """Those that no image has."""
        return [entry for entry in self.texts if entry not in self._taken]


class _Tables:
    """Tables of captions by their folders.

    Args:
        names: Of the tables.
        read: Their content.
        column: `data.caption_column`.
        called: What to call one.
    """

    def __init__(
        self, names: Mapping[int, str], read: Callable[[int], bytes], column: str, called: Callable[[str], str]
    ) -> None:
        self.entries = names
        self._called = called
        self._of: dict[str, dict[str, Entry]] = defaultdict(dict)
        self._alike: dict[str, dict[str, str]] = defaultdict(dict)
        self._unused: dict[tuple[str, str], Entry] = {}
        self._second: list[Entry] = []
        for entry, name in sorted(names.items(), key=lambda item: TABLES.index(_last(item[1]).lower())):
            for each in entries(called(name), read(entry), column):
                folder, file = _placed(name[: len(name) - len(_last(name))], each.file)
                if file in self._of[folder]:
                    self._second.append(each)
                    continue
                self._of[folder][file] = each
                self._alike[folder].setdefault(_alike(file), file)
                self._unused[folder, file] = each

    def of(self, image: str) -> Entry | None:
        """What the nearest table that knows an image says of it."""
        folder = image[: len(image) - len(_last(image))]
        while self._of:
            if folder in self._of:
                file = image[len(folder) :]
                file = file if file in self._of[folder] else self._alike[folder].get(_alike(file), "")
                if file:
                    self._unused.pop((folder, file), None)
                    return self._of[folder][file]
            if not folder:
                break
            folder = folder[:-1].rpartition("/")[0]
            folder = f"{folder}/" if folder else ""
        return None

    def left(self, images: AbstractSet[str], there: AbstractSet[str]) -> list[LeftOut]:
        """Entries without an image, or beside another of the same, which may be in a nearer table."""

        def reason(name: str) -> str:
            if name in images:
                return SECOND
            return "is named as an image, and is none" if name in there else "is not there"

        left = [(each, reason(f"{folder}{file}")) for (folder, file), each in self._unused.items()]
        left += [(each, SECOND) for each in self._second]
        return [LeftOut(f"{each.place}: {shown(each.file)}", why, lost=False) for each, why in left]


def _placed(folder: str, file: str) -> tuple[str, str]:
    """The folder that a name in a table of `folder` begins in, which `..` puts above it, and what is left of it."""
    file = posixpath.normpath(file)
    while folder and file.startswith("../"):
        folder, file = folder[: len(folder) - len(_last(folder[:-1])) - 1], file[len("../") :]
    return folder, file


def _last(name: str) -> str:
    return name.rpartition("/")[2]
