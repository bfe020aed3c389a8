"""Files and folders that are there whole or not at all, and their digests."""

import errno
import hashlib
import os
import resource
import shutil
from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path

import pytest

from advdmd_ray.errors import DiskError
from advdmd_ray.files import (
    disk_told,
    drafted_file,
    drafted_folder,
    file_digest,
    files_digest,
    missing_folders,
    remove_empty,
    write_atomically,
)


def _begun(draft: AbstractContextManager[Path], error: type[BaseException]) -> None:
    """Begins to write, and meets the error."""
    with draft as path:
        (path / "file" if path.is_dir() else path).write_text("half")
        raise error


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with drafted_file(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_whatever_goes_wrong_leaves_the_old_file_and_no_draft(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error):
        _begun(drafted_file(path), error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "folder"
    with drafted_folder(folder) as draft:
        (draft / "file").write_text("new")
        assert not folder.exists()
    assert (folder / "file").read_text() == "new"
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o027, 0o077])
def test_the_umask_says_who_may_read_what_is_written_whatever_a_library_or_a_copy_says(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        with drafted_folder(tmp_path / "folder") as draft:
            (draft / "inner").mkdir(0o700)
            (draft / "inner" / "weights").touch(0o600)  # as safetensors does
            (draft / "copied").touch(0o444)
            (draft / "script").touch(0o777)
        written = write_atomically(tmp_path / "report", b"x")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (*tmp_path.rglob("*"), written)}
    folders = dict.fromkeys(("folder", "inner"), 0o777 & ~umask)
    assert modes == folders | dict.fromkeys(("weights", "copied", "script", "report"), 0o666 & ~umask)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_whatever_goes_wrong_leaves_no_folder(tmp_path: Path, error: type[BaseException]) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(error):
        _begun(drafted_folder(folder), error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "a/draft"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
    ],
)
def test_what_a_full_disk_refuses_is_one_line_whoever_says_so(error: Exception) -> None:
    with pytest.raises(DiskError) as told, disk_told("a/file", "make room"):
        raise error
    assert str(told.value) == "a/file cannot be written (no space left on device); make room"
    assert told.value.__cause__ is error


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone"), ValueError("28"), DiskError("a line")])
def test_what_is_not_about_the_disk_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as told, disk_told("a/file", "make room"):
        raise error
    assert told.value is error


def test_a_file_that_a_disk_refuses_in_the_midst_is_not_there(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DiskError, match="file too large"), disk_told("it", "make room"):
            write_atomically(tmp_path / "file", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, reads = tmp_path / "weights", list[str]()
    read = hashlib.file_digest

    def counted(stream: BufferedReader, name: str) -> "hashlib._Hash":
        reads.append(name)
        return read(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    file.write_bytes(b"one")
    assert file_digest(file) == file_digest(file) == hashlib.sha256(b"one").digest()
    assert reads == ["sha256"]
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert file_digest(file) == hashlib.sha256(b"two").digest()
    assert reads == ["sha256"] * 2


def test_the_order_of_files_and_where_one_ends_count(tmp_path: Path) -> None:
    for name, text in (("a", "xy"), ("b", "z"), ("c", "x"), ("d", "yz")):
        (tmp_path / name).write_text(text)
    digests = [files_digest([tmp_path / name for name in names]) for names in ("ab", "ba", "cd")]
    assert len(set(digests)) == 3


def test_folders_that_were_made_are_removed_again_up_to_the_first_that_holds_something(tmp_path: Path) -> None:
    folder = tmp_path / "there" / "new" / "newer"
    (tmp_path / "there").mkdir()
    made = missing_folders(folder)
    assert made == [folder, folder.parent]
    folder.mkdir(parents=True)
    (folder.parent / "file").touch()
    remove_empty(made)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "there", folder.parent, folder.parent / "file"]
    (folder.parent / "file").unlink()
    remove_empty(made[1:])
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
