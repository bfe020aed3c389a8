"""Captioned images in folders, Parquet files and tars, as others write them."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advdmd_ray.data.files.folders import FOLDER_SHARD
from advdmd_ray.data.files.items import CaptionedImage, Shard
from advdmd_ray.data.files.shards import find_shards
from advdmd_ray.errors import UserError
from pictures import picture

METADATA = "metadata.jsonl"


def shards_of(path: Path | str, **columns: str) -> tuple[Shard, ...]:
    return find_shards(str(path), **columns).shards


def images_of(shard: Shard) -> list[CaptionedImage]:
    return [item for item in shard.read() if isinstance(item, CaptionedImage)]


def read(path: Path, **columns: str) -> list[tuple[str, bytes]]:
    return [(item.caption, item.content) for shard in shards_of(path, **columns) for item in images_of(shard)]


EXPECTED = [("a red fox", picture(1)), ("a boat", picture(2)), ("", picture(3))]


def write_folder(folder: Path, *, metadata: bool) -> None:
    (folder / "deep").mkdir(parents=True)
    names = ["a.png", "deep/b.png", "deep/c.png"]
    for name, (caption, content) in zip(names, EXPECTED, strict=True):
        (folder / name).write_bytes(content)
        if caption and not metadata:
            (folder / name).with_suffix(".txt").write_text(caption)
    if metadata:
        lines = [json.dumps({"file_name": n, "text": c}) for n, (c, _) in zip(names, EXPECTED, strict=True) if c]
        (folder / METADATA).write_text("\n".join(lines))


def write_parquet(file: Path, *, nested: bool, columns: tuple[str, str] = ("image", "text")) -> None:
    images: list[Any] = [{"bytes": content, "path": None} if nested else content for _, content in EXPECTED]
    table = pa.table({columns[0]: images, columns[1]: [caption or None for caption, _ in EXPECTED]})
    pq.write_table(table, file, row_group_size=2)


def write_tar(file: Path, suffix: str) -> None:
    with tarfile.open(file, "w") as tar:
        for number, (caption, content) in enumerate(EXPECTED):
            text = json.dumps({"caption": caption}) if suffix == "json" else caption
            members = {f"part/{number:03d}.png": content}
            if caption:
                members[f"part/{number:03d}.{suffix}"] = text.encode()
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("metadata", [False, True])
def test_a_folder_has_its_captions_beside_the_images_or_in_one_table(tmp_path: Path, metadata: bool) -> None:
    write_folder(tmp_path / "images", metadata=metadata)
    assert read(tmp_path / "images") == EXPECTED


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_holds_bytes_or_what_hugging_face_writes(tmp_path: Path, nested: bool) -> None:
    write_parquet(tmp_path / "part-0.parquet", nested=nested)
    assert read(tmp_path) == read(tmp_path / "part-0.parquet") == EXPECTED
    assert len(shards_of(tmp_path)) == 2  # row groups


def test_parquet_columns_have_the_names_that_are_given_and_a_missing_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "part.parquet"
    write_parquet(file, nested=False, columns=("jpg", "prompt"))
    assert read(file, image_column="jpg", caption_column="prompt") == EXPECTED
    with pytest.raises(UserError, match=r"no column 'image'; set data\.image_column to one of: jpg, prompt"):
        shards_of(file)
    with pytest.raises(UserError, match=r"set data\.caption_column"):
        shards_of(file, image_column="jpg")


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_tar_members_of_one_name_belong_together(tmp_path: Path, suffix: str) -> None:
    write_tar(tmp_path / "00000.tar", suffix)
    assert read(tmp_path) == EXPECTED


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.tar"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)


def test_captions_may_hold_any_separator_and_their_file_a_mark_of_its_order(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", metadata=True)
    caption = "one\u2028two\x85three"
    entry = json.dumps({"file_name": "a.png", "text": caption}, ensure_ascii=False)
    (tmp_path / "images" / METADATA).write_text(f"\ufeff{entry}\r\n", encoding="utf-8", newline="")
    assert [caption for caption, _ in read(tmp_path / "images")] == [caption, "", ""]


@pytest.mark.parametrize(
    "line", ['{"text": "a fox"}', "[1]", "{", '{"file_name": null, "text": "a fox"}', '{"file_name": "\udcff"}']
)
def test_a_line_of_captions_that_is_none_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    write_folder(tmp_path / "images", metadata=True)
    table = tmp_path / "images" / METADATA
    table.write_text(table.read_text() + "\n" + line, errors="surrogateescape")
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 3: "):
        shards_of(tmp_path / "images")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_path_without_images_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.path"):
        shards_of(tmp_path / name)


def test_the_shards_of_a_folder_are_small_and_change_their_identity_with_their_files_alone(tmp_path: Path) -> None:
    for number in range(FOLDER_SHARD + 2):
        (tmp_path / f"{number:04d}.png").write_bytes(b"x")
    before = shards_of(tmp_path)
    assert [len(list(shard.read())) for shard in before] == [FOLDER_SHARD, 2]
    (tmp_path / f"{FOLDER_SHARD:04d}.txt").write_text("a caption")
    after = shards_of(tmp_path)
    assert before[0].identity == after[0].identity
    assert before[1].identity != after[1].identity
    assert len({shard.identity for shard in (*before, *after)}) == 3


def test_each_file_of_a_folder_is_asked_for_its_facts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (tmp_path / f"{number}.png").write_bytes(b"x")
        (tmp_path / f"{number}.txt").write_text("a caption")
    asked, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda file, *args, **more: asked.append(str(file)) or stat(file, *args, **more))
    shards_of(tmp_path)
    assert sorted(file for file in asked if file.endswith((".png", ".txt", ".caption"))) == sorted(
        map(str, tmp_path.iterdir())
    )


def test_one_image_is_a_folder_of_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", metadata=False)
    assert read(tmp_path / "folder" / "a.png") == EXPECTED[:1]
    assert read(tmp_path / "folder" / "deep" / "c.png") == EXPECTED[2:]
    before = shards_of(tmp_path / "folder" / "a.png")[0].identity
    (tmp_path / "folder" / "a.txt").write_text("another")
    assert shards_of(tmp_path / "folder" / "a.png")[0].identity != before


def test_a_shard_knows_its_images_before_it_is_read_where_its_files_say(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", metadata=True)
    write_parquet(tmp_path / "a.parquet", nested=True)
    write_tar(tmp_path / "a.tar", "txt")
    known = {name: [shard.images for shard in shards_of(tmp_path / name)] for name in ("folder", "a.parquet", "a.tar")}
    assert known == {"folder": [3], "a.parquet": [2, 1], "a.tar": [None]}
    for name in ("folder", "a.parquet"):
        for shard in shards_of(tmp_path / name):
            assert len(list(shard.read())) == shard.images


def test_a_reader_that_stops_early_leaves_no_file_open(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", nested=False)
    write_tar(tmp_path / "a.tar", "txt")
    for name in ("a.parquet", "a.tar"):
        (first, *_) = shards_of(tmp_path / name)
        item = next(first.read())
        assert isinstance(item, CaptionedImage)
        assert item.caption == "a red fox"


def test_a_row_group_of_any_length_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    images, size = 600, 50_000
    draws = np.random.default_rng(0)
    table = pa.table({"image": [draws.bytes(size) for _ in range(images)], "text": ["a fox"] * images})
    pq.write_table(table, tmp_path / "a.parquet", write_batch_size=16, use_dictionary=False)
    del table
    (shard,) = shards_of(tmp_path)
    before = pa.total_allocated_bytes()
    most = [pa.total_allocated_bytes() - before for _ in shard.read()]
    assert len(most) == images
    assert max(most) < images * size / 3
