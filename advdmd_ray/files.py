"""Files and folders that are there whole or not at all, and the digests of what they hold.

They are written beside their place and renamed into it. Gigabytes of weights are read once in a process, however often
it asks for their digest.
"""

import functools
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def drafted_file(path: Path) -> Iterator[Path]:
    """Where to write what is to become `path`, whose folder exists; the draft is gone if it does not come to that.

    A file that is there already is replaced at once: a reader sees the old one or the new one, never a part.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def drafted_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that is to become `folder`, readable by everyone, and is gone if it does not come to that.

    Args:
        folder: Must not exist; its parents are made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # not there if it was renamed


def missing_folders(folder: Path) -> list[Path]:
    """A folder and those that hold it, as far as they are not there, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders in their order, up to the first that holds something, which stays."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def disk_of(folder: Path) -> tuple[int, int]:
    """Bytes of the disk that has a folder, or will have it: all of them, and those that are free."""
    standing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    usage = shutil.disk_usage(standing)
    return usage.total, usage.free


def write_atomically(path: Path, data: bytes | memoryview) -> Path:
    """Writes `data` to `path` through a temporary file of the same folder and a rename.

    The folder is made if it is missing. A reader sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted_file(path) as draft:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o644)  # a report is meant to be read
    return path


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
