"""What became of everything that was found: read = used + skipped, by shard and over all, whatever was encoded when.

A shard's ledger is beside its latents and is there before they are, so whoever finds these finds it too.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advdmd_ray.data.files.items import CaptionedImage, LeftOut
from advdmd_ray.errors import UserError
from advdmd_ray.files import write_atomically

SKIPPED = "skipped.jsonl"
"""Every file, row or member that was skipped, a JSON object a line."""
NAMED = 5
"""Names in a line of the table."""
SIZES = 6
"""Sizes in the table."""
REPLACED = "has a replacement character in its caption, which is learnt as it stands"
MORE_CAPTIONS = "has several captions, of which the first is used"
MORE_PICTURES = "has several pictures, of which the first is used"


@dataclass(slots=True)
class Ledger:
    """Counts of a shard, or of several.

    Attributes:
        used: Images that were encoded.
        left_out: All others, and what is no image.
        sizes: How many of those used have a size, `width x height`.
        notes: Names of those used of which something is to be told, by what that is.
    """

    used: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def use(self, item: CaptionedImage, size: tuple[int, int], *, several: bool) -> None:
        """Count an image that is used."""
        self.used += 1
        self.sizes[f"{size[0]} x {size[1]}"] += 1
        told = {REPLACED: "\ufffd" in item.caption, MORE_CAPTIONS: item.more_captions, MORE_PICTURES: several}
        for what in (what for what, is_so in told.items() if is_so):
            self.notes.setdefault(what, []).append(item.name)

    def add(self, other: "Ledger") -> None:
        """Count what another has."""
        self.used += other.used
        self.left_out += other.left_out
        self.sizes += other.sizes
        for what, names in other.notes.items():
            self.notes.setdefault(what, []).extend(names)

    @property
    def read(self) -> int:
        """All that was found."""
        return self.used + len(self.left_out)

    @property
    def lost(self) -> list[LeftOut]:
        """Images that cannot be used."""
        return [each for each in self.left_out if each.lost]

    def check(self, most: int) -> None:
        """Refuses to go on with too few of the images.

        Raises:
            UserError: if more than `most` images cannot be used.
        """
        if len(lost := self.lost) > most:
            raise UserError(
                f"more than data.most_skipped={most} images cannot be used: {named(lost)}; repair or remove them, or "
                "raise data.most_skipped"
            )


def named(some: Sequence[LeftOut]) -> str:
    """The first of them with their reasons."""
    return _few([f"{each.name} ({each.reason})" for each in some])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def ledger_file(latents: Path) -> Path:
    """Where the ledger of a shard is, by the file of its latents."""
    return latents.with_suffix(".json")


def write_ledger(file: Path, ledger: Ledger) -> None:
    """Write a shard's ledger, whole or not at all."""
    facts = {
        "used": ledger.used,
        "left_out": [[each.name, each.reason, each.lost] for each in ledger.left_out],
        "sizes": ledger.sizes,
        "notes": ledger.notes,
    }
    write_atomically(file, json.dumps(facts).encode())


def read_ledger(file: Path) -> Ledger:
    """A shard's ledger.

    Raises:
        UserError: if it is damaged.
    """
    try:
        facts: Mapping[str, Any] = json.loads(file.read_bytes())
        left_out = [LeftOut(*each) for each in facts["left_out"]]
        return Ledger(facts["used"], left_out, Counter(facts["sizes"]), facts["notes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is damaged ({type(error).__name__}); remove it, its shard is encoded again") from None


def write_skipped(file: Path, ledger: Ledger) -> None:
    """Write the names of all that was skipped, a JSON object a line, unless they stand there.

    Raises:
        UserError: if the folder cannot be written.
    """
    lines = (json.dumps({"name": each.name, "reason": each.reason, "lost": each.lost}) for each in ledger.left_out)
    content = "".join(f"{line}\n" for line in lines).encode()
    try:
        if not (file.exists() and file.read_bytes() == content):  # a cache that others made may be read only
            write_atomically(file, content)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); choose another data.cache") from None


def reading_table(ledger: Ledger, captions: Iterable[str], skipped: Path) -> str:
    """What was read, in lines for a person.

    Args:
        ledger: Over all shards.
        captions: Of the images that are used.
        skipped: Where all names are.
    """
    different = len(set(captions))
    counts = f"read {ledger.read}, used {ledger.used}, skipped {len(ledger.left_out)}"
    lines = [f"{ledger.used} real images with {different} captions: {counts}"]
    lines += [f"  {len(names)} used: {what}: {_few(names)}" for what, names in ledger.notes.items()]
    by_reason: dict[str, list[LeftOut]] = {}
    for each in ledger.left_out:
        by_reason.setdefault(each.reason.partition(" (")[0], []).append(each)
    for reason, some in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        shown = [_with_detail(each) for each in some]
        lines.append(f"  {len(some)} skipped: {reason}: {_few(shown)}")
    sizes = [f"{size} ({count})" for size, count in ledger.sizes.most_common(SIZES)]
    more = f" and {len(ledger.sizes) - SIZES} others" if len(ledger.sizes) > SIZES else ""
    lines.append(f"  {len(ledger.sizes)} sizes, width x height: {', '.join(sizes)}{more}")
    if ledger.left_out:
        lines.append(f"  all names: {skipped}")
    return "\n".join(lines)


def _with_detail(each: LeftOut) -> str:
    detail = each.reason.partition(" (")[2]
    return f"{each.name} ({detail}" if detail else each.name
