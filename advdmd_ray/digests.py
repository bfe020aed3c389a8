"""Digests of files: gigabytes of weights are read once in a process, however often it asks."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path


def file_digest(file: Path) -> bytes:
    """SHA-256 of a file's bytes; read again when its size or its time of change is another."""
    facts = file.stat()
    return _read(file, facts.st_size, facts.st_mtime_ns)


def files_digest(files: Sequence[Path]) -> str:
    """SHA-256 over the bytes of some files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file_digest(file))
    return digest.hexdigest()


@functools.cache
def _read(file: Path, size: int, changed_ns: int) -> bytes:
    del size, changed_ns  # part of the key
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
