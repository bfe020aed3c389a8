"""Data sets as others leave them, written file by file, and what a reading of one comes to."""

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from advdmd_ray.data.files.encoding import ArrowLatents, ShardEncoding, encoded_file
from advdmd_ray.data.files.fitting import Fitting
from advdmd_ray.data.files.ledger import Ledger, ledger_file, read_ledger
from advdmd_ray.data.files.shards import find_shards

SHAPE = (3, 2, 2)
SIDE = 8


@dataclass(frozen=True)
class Link:
    """A symbolic link, in a tar to a member."""

    to: str


@dataclass(frozen=True)
class Hard:
    """A member of a tar that is another one again."""

    to: str


class Pipe:
    """What is no file."""


Content = bytes | str | Link | Hard | Pipe
Files = Sequence[tuple[str, Content]]
Case = tuple[str, Files, dict[str, str], dict[str, str]]
"""A name, files, the captions of images that are used, and the reasons of the rest, a lost image's with `! `."""


def grey(value: int = 100, kind: str = "PNG", size: tuple[int, int] = (SIDE, SIDE), **options: Any) -> bytes:
    """An image of one grey in any format."""
    stream = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(stream, format=kind, **options)
    return stream.getvalue()


def write_files(folder: Path, files: Files) -> Path:
    """A folder of files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case Link():
                file.symlink_to(content.to)
            case Pipe():
                os.mkfifo(file)
            case str():
                file.write_text(content, encoding="utf-8", newline="")
            case bytes():
                file.write_bytes(content)
            case Hard():
                raise ValueError("of tars alone")
    return folder


def tar_bytes(files: Files, mode: str = "w") -> bytes:
    """A tar of members, in their order; one name may stand there twice."""
    stream = io.BytesIO()
    kinds = {Link: tarfile.SYMTYPE, Hard: tarfile.LNKTYPE, Pipe: tarfile.FIFOTYPE}
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in files:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes | str):
                data = content.encode() if isinstance(content, str) else content
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
                continue
            member.type = kinds[type(content)]
            member.linkname = content.to if isinstance(content, Link | Hard) else ""
            tar.addfile(member)
    return stream.getvalue()


def parquet_bytes(columns: Mapping[str, Any], **options: Any) -> bytes:
    """A Parquet file."""
    stream = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), stream, **options)
    return stream.getvalue()


@dataclass
class Reading:
    """What came of a data set.

    Attributes:
        captions: Of the images that are used, by name.
        levels: Mean of each of them, 0 to 255, by name.
        ledger: Over all shards.
        coded: Images that went through the codec.
    """

    captions: dict[str, str]
    levels: dict[str, float]
    ledger: Ledger
    coded: int

    @property
    def skipped(self) -> dict[str, str]:
        """Reasons by name, those of images that are lost with a mark."""
        return {each.name: ("! " if each.lost else "") + each.reason for each in self.ledger.left_out}


def read_all(path: Path, cache: Path, fitting: Fitting = Fitting(4, 4, 1.5), **columns: str) -> Reading:  # noqa: B008 - frozen
    """Reads a data set as a run does, with a codec that averages 2 x 2 pixels."""
    coded = 0

    def codec(images: Tensor) -> Tensor:
        nonlocal coded
        coded += len(images)
        return torch.nn.functional.avg_pool2d(images.expand(-1, 3, -1, -1), 2)

    found = find_shards(str(path), **columns)
    tasks = [ShardEncoding(each, encoded_file(cache, each), fitting, SHAPE, 1000) for each in found.shards]
    ledger = Ledger(left_out=list(found.left_out))
    for task in tasks:
        task.encode(codec, 2)
        ledger.add(read_ledger(ledger_file(task.file)))
    latents = ArrowLatents([task.file for task in tasks], SHAPE)
    values = (latents[torch.arange(len(latents))].flatten(1).mean(1) + 1) * 127.5
    named = list(zip(latents.names, values.tolist(), strict=True))
    return Reading(dict(zip(latents.names, latents.captions, strict=True)), dict(named), ledger, coded)


def adds_up(path: Path, cache: Path, captions: dict[str, str], skipped: dict[str, str]) -> None:
    """What is used and what is skipped, by name; all of it again out of the cache, where nothing is encoded twice."""
    for again in (False, True):
        found = read_all(path, cache)
        assert found.captions == captions
        assert found.skipped == skipped
        assert found.ledger.read == found.ledger.used + len(found.ledger.left_out) == len(captions) + len(skipped)
        assert found.ledger.used == len(captions) == sum(found.ledger.sizes.values())
        assert found.coded == (0 if again else len(captions))
