"""The samples of a run: teacher beside student, and the student through time, tile by tile."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from advdmd_ray.evaluation.pictures.page_pictures import Shown, data_uri, evenly_spaced
from advdmd_ray.evaluation.pictures.sheet import read_sheet
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.page.names import counted
from advdmd_ray.runs.versions import Drawn

SHOWN_GRIDS = 24
"""Most sample grids and validations in a page."""
GRID_BYTES, COMPARISON_BYTES = 2**18, 2**20
"""Most bytes of a grid and of the comparison in a page; of larger ones the tiles are smaller."""
_TILE_WIDTH, _WHOLE_WIDTH = 512, 2000
_LEAST_BYTES = 1000
PIXELATED = 128
"""Images of fewer pixels a side are enlarged pixel by pixel."""


class Pictures(Protocol):
    """Where a page finds its pictures."""

    def address(self, shown: Shown) -> str:
        """Of a picture, or of a part of one."""
        ...

    def whole(self, path: Path) -> str:
        """Of a whole file."""
        ...


class InPage:
    """Pictures are in the page itself; whole files lie beside it.

    Args:
        page: Where the page is to be.
    """

    def __init__(self, page: Path) -> None:
        self._beside = page.parent

    def address(self, shown: Shown) -> str:
        """See `Pictures`."""
        return data_uri(shown)

    def whole(self, path: Path) -> str:
        """See `Pictures`."""
        return quote(Path(os.path.relpath(path, self._beside)).as_posix())


@dataclass(frozen=True, slots=True)
class Tile:
    """One image.

    Attributes:
        address: Where its picture is.
        alt: What it is, in words.
        width: Pixels of the image itself.
        height: Likewise.
    """

    address: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Strip:
    """The images of one sampler, line by line.

    Attributes:
        label: The sampler.
        tiles: One of every prompt in each line.
    """

    label: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images of one or more samplers, prompt by prompt.

    Attributes:
        prompts: Label of each column; empty: the strip is one picture.
        strips: The samplers.
        pixelated: Whether the images are so small that they are enlarged pixel by pixel.
        whole: Where the whole picture is.
    """

    prompts: tuple[str, ...]
    strips: tuple[Strip, ...]
    pixelated: bool
    whole: str

    @property
    def short(self) -> bool:
        """Whether the prompts fit above their columns."""
        return bool(self.prompts) and max(map(len, self.prompts)) * len(self.prompts) <= 120  # noqa: PLR2004 - letters


def gallery(path: Path, pictures: Pictures, most_bytes: int, label: str) -> Gallery:
    """The images of a comparison; a picture that does not say where its tiles lie is one tile.

    Args:
        path: The picture.
        pictures: Where the page finds it.
        most_bytes: Of all its tiles.
        label: What it shows, where the picture does not say.

    Raises:
        OSError: if it is not there, or no picture.
    """
    sheet = read_sheet(path)
    if sheet is None:
        shown = Shown(path, most_bytes, _WHOLE_WIDTH)
        tile = Tile(pictures.address(shown), label, *shown.size)
        return Gallery((), (Strip(label, (tile,)),), pixelated=False, whole=pictures.whole(path))
    quota = max(_LEAST_BYTES, most_bytes // sum(row.lines * len(sheet.prompts) for row in sheet.rows))
    strips = list[Strip]()
    for row in sheet.rows:
        parts = [Shown(path, quota, _TILE_WIDTH, box, sheet.enlarged) for box in sheet.boxes(row)]
        tiles = tuple(
            Tile(pictures.address(part), f"{row.label}: {sheet.prompts[place % len(sheet.prompts)]}", *part.size)
            for place, part in enumerate(parts)
        )
        strips.append(Strip(row.label, tiles))
    small = max(sheet.width, sheet.height) // sheet.enlarged < PIXELATED
    return Gallery(sheet.prompts, tuple(strips), pixelated=small, whole=pictures.whole(path))


@dataclass(frozen=True, slots=True)
class Samples:
    """All pictures of a run.

    Attributes:
        comparison: Teacher and student side by side; None: not drawn yet.
        through_time: Cycle and images of the student, of some of the grids.
        grids: How many grids there are.
        validation: The same of the validation prompts, in one gallery or more.
        validations: How many validations there are.
    """

    comparison: Gallery | None
    through_time: tuple[tuple[int, tuple[Gallery, ...]], ...]
    grids: int
    validation: tuple[tuple[int, tuple[Gallery, ...]], ...] = ()
    validations: int = 0


def samples(folder: RunFolder, pictures: Pictures) -> Samples:
    """The pictures in a run folder. One that is taken away meanwhile, or cannot be read, is left out."""
    comparison = None
    with suppress(OSError):
        path = folder.drawn(folder.comparison)
        if path is not None:
            comparison = gallery(path, pictures, COMPARISON_BYTES, "teacher and student, a row each")
    grids, validations = [(cycle, [path]) for cycle, path in folder.grids()], folder.validations()
    most = SHOWN_GRIDS // 2 if grids and validations else SHOWN_GRIDS
    return Samples(
        comparison,
        _through_time(grids, most, pictures),
        len(grids),
        _through_time(validations, most, pictures),
        len(validations),
    )


def _through_time(drawn: Sequence[Drawn], most: int, pictures: Pictures) -> tuple[tuple[int, tuple[Gallery, ...]], ...]:
    shown = list[tuple[int, tuple[Gallery, ...]]]()
    for cycle, paths in evenly_spaced(drawn, most):
        label, share = f"the student after {counted(cycle, 'cycle')}", GRID_BYTES // len(paths)
        with suppress(OSError):  # a run that is going removes some as others come
            shown.append((cycle, tuple(gallery(path, pictures, share, label) for path in paths)))
    return tuple(shown)
