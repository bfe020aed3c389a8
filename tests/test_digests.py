"""Digests of files."""

import hashlib
import os
from io import BufferedReader
from pathlib import Path

import pytest

from advdmd_ray.digests import file_digest, files_digest


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
