"""Pictures of the student at several versions, one or more of each, in one folder."""

from collections.abc import Sequence
from pathlib import Path

Drawn = tuple[int, list[Path]]
"""A version and its pictures."""


def by_version(folder: Path) -> list[Drawn]:
    """The pictures in a folder that are named `version-VERSION...`, by version and name."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("version-*")):
        found.setdefault(int(path.stem.split("-")[1]), []).append(path)
    return sorted(found.items())


def thin(drawn: Sequence[Drawn], most: int) -> None:
    """Removes pictures until there are so many versions, at least 2; the first, the last and others between stay."""
    kept = list(drawn)
    while len(kept) > most:
        crowded = min(range(1, len(kept) - 1), key=lambda place: kept[place + 1][0] - kept[place - 1][0])
        for path in kept.pop(crowded)[1]:
            path.unlink()
