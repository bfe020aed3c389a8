"""Files and folders that are there whole or not at all, and the digests of what they hold.

They are written beside their place and renamed into it. Gigabytes of weights are read once in a process, however often
it asks for their digest.
"""

import errno
import functools
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from advdmd_ray.errors import FAILURES, DiskError, UserError

_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""What a disk refuses to write with: full, over a quota, over a limit of the process, broken, or read-only."""
_IN_WORDS = re.compile(r"(?:\(os error|\[Errno) (\d+)[)\]]")
"""How errors say the number that do not have it: those of libraries in Rust, such as safetensors, and of `copytree`."""
ABANDONED_S = 3600.0
"""A draft that nobody has written to for so long is one of a process that is gone."""


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


def remove_abandoned(folder: Path) -> None:
    """Removes drafts of files that nobody has written to for an hour: of processes that were killed.

    Args:
        folder: That of the files, or none; others may be writing there.
    """
    if not folder.is_dir():
        return
    before = time.time() - ABANDONED_S
    for entry in os.scandir(folder):
        if entry.name.startswith(".") and entry.name.endswith(".part"):
            with suppress(FileNotFoundError, PermissionError):  # it is done by now, or another user's
                if entry.is_file() and entry.stat().st_mtime < before:
                    Path(entry.path).unlink()


@contextmanager
def drafted_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that is to become `folder`, and is gone if it does not come to that.

    All that is in it gets the modes that the process's umask gives new files and folders: some libraries write files
    for their owner alone, and copies have the modes of what was copied.

    Args:
        folder: Must not exist; its parents are made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    draft.mkdir()
    mode = draft.stat().st_mode & 0o777  # the umask, which can be asked for in no other way without being changed
    try:
        yield draft
        for path in draft.rglob("*"):
            path.chmod(mode if path.is_dir() else mode & 0o666)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # not there if it was renamed


@contextmanager
def disk_told(what: str, remedy: str) -> Iterator[None]:
    """What a disk refuses inside is one line.

    Args:
        what: Which is being written.
        remedy: What stays, and what to do.

    Raises:
        DiskError: for that.
    """
    try:
        yield
    except (UserError, *FAILURES):  # says what it means already
        raise
    except Exception as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise DiskError(f"{what} cannot be written ({reason}); {remedy}") from error


def _refusal(error: Exception) -> str | None:
    """Why a disk refused; None if that is not what the error is about."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (said := _IN_WORDS.search(str(error))) is not None:
        number = int(said[1])
    return os.strerror(number).lower() if number in _REFUSALS else None


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


def read_whole(path: Path) -> bytes:
    """The bytes of a file that is read more than once: a pipe has none for the second time, and a device no end.

    Raises:
        OSError: if it cannot be read, or is no file.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe or a device, and no file")
    return path.read_bytes()


def write_atomically(path: Path, data: bytes | memoryview) -> Path:
    """Writes `data` to `path` through a temporary file of the same folder and a rename.

    The folder is made if it is missing. A reader sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted_file(path) as draft, draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
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
