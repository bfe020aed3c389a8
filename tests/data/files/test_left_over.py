"""What is there and is not used: captions behind the first, and archives and tables of nothing."""

import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from advdmd_ray.data.files.ledger import MORE_CAPTIONS
from advdmd_ray.data.files.shards import find_shards
from advdmd_ray.errors import UserError
from data_sets import Files, adds_up, grey, parquet_bytes, read_all, tar_bytes, write_files

P, T = grey(), "a fox"
EMPTY = {"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}


def test_archives_and_tables_of_nothing_are_named(tmp_path: Path) -> None:
    files = [("a.png", P), ("a.txt", T), ("b.tar", tar_bytes([])), ("c.parquet", parquet_bytes(EMPTY))]
    nothing = {"b.tar": "holds nothing", "c.parquet": "holds nothing"}
    adds_up(write_files(tmp_path / "data", files), tmp_path / "cache", {"a.png": T}, nothing)


@pytest.mark.parametrize(
    ("files", "several"),
    [
        ([("a.txt", T), ("a.json", '{"caption": "a boat", "id": 5}')], True),
        ([("a.txt", "a fox\n"), ("a.json", '{"caption": " a  fox", "id": 5}')], False),
        ([("a.txt", T), ("a.json", '{"width": 5}')], False),
        ([("a.txt", T), ("a.json", "[1]")], False),
        ([("a.json", '["a fox", "", "a boat"]')], True),
        ([("a.json", '{"text": "a fox", "prompt": "a boat"}')], True),
        ([("a.txt", "a boat"), ("metadata.jsonl", '{"file_name": "a.png", "text": "a fox"}')], True),
        ([("metadata.csv", "file_name,text,caption\na.png,a fox,a boat")], True),
        ([("metadata.csv", "file_name,text,caption\na.png,a fox,")], False),
    ],
)
def test_captions_that_are_not_used_beside_others_are_told(files: Files, several: bool, tmp_path: Path) -> None:
    files, notes = [("a.png", P), *files], {MORE_CAPTIONS: ["a.png"]} if several else {}
    folder, tar = write_files(tmp_path / "data", files), write_files(tmp_path, [("t.tar", tar_bytes(files))]) / "t.tar"
    in_folder, in_tar = read_all(folder, tmp_path / "cache"), read_all(tar, tmp_path / "cache")
    assert (in_folder.captions, in_folder.ledger.notes) == ({"a.png": T}, notes)
    assert (in_tar.captions, [*in_tar.ledger.notes]) == ({"t.tar: a.png": T}, [*notes])


def test_what_runs_write_among_the_images_is_none_of_them(tmp_path: Path) -> None:
    own = ("runs/latents/x.json", "runs/demo/grids/1.png", "cache/y/z.arrow", "linked/q.png")
    write_files(tmp_path / "data", [("a.png", P), ("a.txt", T), *((name, P) for name in own)])
    folders = [tmp_path / "data" / name for name in ("runs", "cache", "absent", "linked/../linked", ".")]
    found = find_shards(str(tmp_path / "data"), folders)
    assert [shard.images for shard in found.shards] == [1]
    assert {each.name: each.reason for each in found.left_out} == dict.fromkeys(
        ("runs/", "cache/", "linked/"), "is a folder that runs write"
    )
    assert not any(each.lost for each in found.left_out)


@pytest.mark.parametrize("asked", ["is_file", "iterdir", "scandir"])
def test_a_path_that_may_not_be_read_is_one_line(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_files(tmp_path / "data", [("a.png", P)])

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os if asked == "scandir" else Path, asked, denied)
    with pytest.raises(UserError, match=r"data.* cannot be read \(Permission denied\)"):
        find_shards(str(folder / "a.png" if asked == "iterdir" else folder))


def test_files_of_more_bytes_than_anybody_reads_are_not_read(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "set", [("a.png", P), ("a.txt", T), ("b.png", P), ("b.txt", T), ("c.png", P)])
    for name, size in (("b.png", 2**40), ("a.txt", 2**40), ("c.png", 2**40)):
        os.truncate(folder / name, size)  # holes take no room on the disk
    left_out = {"a.png": "! its caption has more than 64 MiB (a.txt)", "b.png": "! has more than 1024 MiB"}
    adds_up(folder, tmp_path / "cache", {}, {**left_out, "c.png": "! has more than 1024 MiB"})
    tar = tmp_path / "t.tar"
    subprocess.run(["tar", "-S", "-cf", tar, "-C", folder, "a.png", "a.txt", "b.png", "b.txt"], check=True)
    adds_up(tar, tmp_path / "cache", {}, {f"t.tar: {name}": reason for name, reason in left_out.items()})


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_pointers_of_git_lfs_are_told_as_what_they_are(tmp_path: Path) -> None:
    files = [("a.png", POINTER), ("a.txt", T), ("b.png", P), ("b.txt", POINTER)]
    reason = "is a pointer of Git LFS, and not the file itself; fetch that with git lfs pull"
    left_out = {"a.png": f"! {reason}", "b.png": f"! its caption {reason} (b.txt)"}
    adds_up(write_files(tmp_path / "data", files), tmp_path / "cache", {}, left_out)
    for name in ("a.tar", "a.parquet", "metadata.jsonl", "metadata.parquet"):
        root = write_files(tmp_path / name, [(name, POINTER), ("a.png", P)])
        with pytest.raises(UserError, match=f"{name}.*: is a pointer of Git LFS"):
            find_shards(str(root))


def test_a_home_that_nobody_has_is_one_line() -> None:
    with pytest.raises(UserError, match="names the folder of a user whom nobody knows"):
        find_shards("~no such user/images")
