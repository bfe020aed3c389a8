"""Tars and Parquet files as others leave them: every image and caption is used, or counted and named."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from advdmd_ray.data.files.items import FOREIGN, NO_IMAGE
from advdmd_ray.data.files.shards import find_shards
from advdmd_ray.errors import UserError
from data_sets import Case, Files, Hard, Link, Pipe, adds_up, grey, parquet_bytes, read_all, tar_bytes, write_files

P, T = grey(), "a fox"
ALONE = "is a caption without an image"
LATIN = "a café".encode("latin-1")

TARS: tuple[Case, ...] = (
    (
        "names that stand there twice",
        [("1.png", P), ("1.txt", T), ("1.png", grey(50)), ("1.txt", "a boat"), ("1.png", P)],
        {"t: 1.png": T, "t: 1.png, number 2 of this name": "a boat"},
        {"t: 1.png, number 3 of this name": "! has no caption"},
    ),
    (
        "all images, then all texts",
        [("1.png", P), ("2.png", P), ("2.txt", "a boat"), ("1.txt", T)],
        {"t: 1.png": T, "t: 2.png": "a boat"},
        {},
    ),
    (
        "names with dots",
        [("v1.5_001.png", P), ("v1.5_001.txt", T), ("v1.5_002.png", P), ("v1.5_002.txt", "a boat")],
        {"t: v1.5_001.png": T, "t: v1.5_002.png": "a boat"},
        {},
    ),
    (
        "other members of a sample",
        [("1.png", P), ("1.mask.png", P), ("1.cls", "7"), ("1.json", '{"caption": "a fox"}')],
        {"t: 1.png": T},
        {"t: 1.mask.png": "! has no caption", "t: 1.cls": f"{NO_IMAGE} (.cls)"},
    ),
    (
        "both kinds of one image",
        [("1.png", P), ("1.jpg", grey(kind="JPEG")), ("1.txt", T)],
        {"t: 1.png": T, "t: 1.jpg": T},
        {},
    ),
    (
        "links of a tar",
        [
            ("1.png", P),
            ("1.txt", T),
            ("2.png", Hard("1.png")),
            ("2.txt", Hard("1.txt")),
            ("3.png", Link("1.png")),
            ("3.txt", "a link"),
            ("4.png", Link("nowhere")),
            ("4.txt", T),
            ("5.png", Pipe()),
        ],
        {"t: 1.png": T, "t: 2.png": T, "t: 3.png": "a link"},
        {"t: 4.png": "! is a link that leads nowhere", "t: 5.png": "is no file"},
    ),
    (
        "what systems leave",
        [
            ("./a.png", P),
            ("./a.txt", T),
            ("./._a.png", b"\0"),
            ("__MACOSX/a.png", P),
            ("__MACOSX/b.png", P),
            (".DS_Store", b"\0"),
        ],
        {"t: a.png": T},
        {"t: ._a.png": FOREIGN, "t: __MACOSX/": FOREIGN, "t: .DS_Store": FOREIGN},
    ),
    (
        "a table in it",
        [("x/metadata.jsonl", '{"file_name": "a.png", "text": "a fox"}'), ("x/a.png", P)],
        {"t: x/a.png": T},
        {},
    ),
    (
        "captions that say nothing",
        [("1.png", P), ("1.txt", LATIN), ("2.png", P), ("2.txt", " "), ("3.txt", T)],
        {},
        {
            "t: 1.png": "! its caption is not UTF-8; save the file as UTF-8 (1.txt)",
            "t: 2.png": "! has no caption",
            "t: 3.txt": ALONE,
        },
    ),
    (
        "links in a circle",
        [("1.png", Link("2.png")), ("2.png", Link("1.png")), ("1.txt", T), ("3.png", Hard("3.png"))],
        {},
        {f"t: {number}.png": "! is a link that leads nowhere" for number in (1, 2, 3)},
    ),
    ("a name in Latin-1", [("caf\udce9.png", P), ("caf\udce9.txt", T)], {"t: caf\\udce9.png": T}, {}),
)

NOT_UTF8 = "! has text that is not UTF-8"


def raw_texts(*texts: bytes) -> pa.Array:
    """A column of texts whose bytes nobody has looked at, as some writers leave them."""
    plain = pa.array(texts)
    return pa.Array.from_buffers(pa.string(), len(texts), plain.buffers())


MAP = pa.map_(pa.string(), pa.string())
ROWS: tuple[tuple[str, Any, Any, str | None, str | None], ...] = (
    ("bytes", pa.array([P]), pa.array([T]), T, None),
    ("large types", pa.array([P], pa.large_binary()), pa.array([T], pa.large_string()), T, None),
    ("a dictionary", pa.array([P]), pa.array([T]).dictionary_encode(), T, None),
    ("captions in bytes", pa.array([P]), pa.array([T.encode()]), T, None),
    (
        "captions in bytes of Latin-1",
        pa.array([P]),
        pa.array([LATIN]),
        None,
        "! its caption is not UTF-8; save the file as UTF-8",
    ),
    ("a list of captions", pa.array([P]), pa.array([["", T, "b"]]), T, None),
    ("no caption in a list", pa.array([P]), pa.array([[]], pa.list_(pa.string())), None, "! has no caption"),
    ("an object with a caption", pa.array([P]), pa.array([{"en": "x", "caption": T}]), T, None),
    ("objects in a list", pa.array([P]), pa.array([[{"text": None}, {"text": T}]]), T, None),
    (
        "an object with others",
        pa.array([P]),
        pa.array([{"en": T}]),
        None,
        "! its caption has none of text, caption, prompt, captions (it has en)",
    ),
    ("a map with a caption", pa.array([P]), pa.array([[("en", "x"), ("text", T)]], MAP), T, None),
    ("views", pa.array([P], pa.binary_view()), pa.array([T], pa.string_view()), T, None),
    ("null for a caption", pa.array([P]), pa.array([None], pa.string()), None, "! has no caption"),
    ("null for an image", pa.array([None], pa.binary()), pa.array([T]), None, "! has no image"),
    (
        "a path and no bytes",
        pa.array([{"bytes": None, "path": "a/b.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        pa.array([T]),
        None,
        "! has no image, but where one was (at a/b.png)",
    ),
    ("a list of one image", pa.array([[P]]), pa.array([T]), T, None),
    (
        "a list of two images",
        pa.array([[P, P]]),
        pa.array([T]),
        None,
        "! is a list of images, of which one is needed (it has 2)",
    ),
    ("a caption in no encoding", pa.array([P]), raw_texts(LATIN), None, NOT_UTF8),
    ("one in a dictionary", pa.array([P]), raw_texts(LATIN).dictionary_encode(), None, NOT_UTF8),
    (
        "a path in no encoding",
        pa.StructArray.from_arrays([pa.array([P]), raw_texts(LATIN)], ["bytes", "path"]),
        pa.array([T]),
        None,
        NOT_UTF8,
    ),
)

REFUSED: tuple[tuple[str, Files, str], ...] = (
    ("a table without names", [("metadata.csv", "image,text\na.png,a fox\n"), ("a.png", P)], "has no column file_name"),
    ("a table cut in a quote", [("metadata.csv", 'file_name,text\na.png,"a fo'), ("a.png", P)], "is no whole CSV file"),
    (
        "a table with a comma too many",
        [("metadata.csv", "file_name,text\na.png,a fox, quick\n"), ("a.png", P)],
        "line 2: has 3 fields",
    ),
    (
        "a table cut in a line",
        [("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_na'), ("a.png", P)],
        "line 2",
    ),
    (
        "a table in Latin-1",
        [("metadata.jsonl", b'{"file_name": "a.png",\n"text": "caf\xe9"}'), ("a.png", P)],
        "line 2: is not UTF-8",
    ),
    (
        "a table of other columns",
        [("metadata.jsonl", '{"file_name": "a.png", "label": 3}'), ("a.png", P)],
        "has no text, caption, prompt, captions; set data.caption_column to one of: file_name, label",
    ),
    (
        "a column twice",
        [("metadata.csv", "file_name,text,text\na.png,x,y"), ("a.png", P)],
        "has the column 'text' twice",
    ),
    (
        "a table in no encoding",
        [("metadata.parquet", parquet_bytes({"file_name": ["a.png"], "text": raw_texts(LATIN)})), ("a.png", P)],
        "metadata.parquet, row 0: cannot be read ('utf-8' codec can't decode",
    ),
    (
        "columns of odd names",
        [("a.parquet", parquet_bytes({"im\nage": [P]}))],
        r"has no column 'image'; set data.image_column to one of: im\nage",
    ),
    ("rows of nothing", [("a.parquet", parquet_bytes({"image": pa.nulls(0), "text": pa.nulls(0)}))], "but a.parquet"),
    ("a table that is damaged", [("metadata.parquet", b"PAR1"), ("a.png", P)], "is not a whole Parquet file"),
    (
        "numbers for captions",
        [("a.parquet", parquet_bytes({"image": [P], "text": [1], "title": [T]}))],
        "the column 'text' holds int64, no captions; set data.caption_column to one of: image, title",
    ),
    (
        "addresses for images",
        [("a.parquet", parquet_bytes({"image": ["http://x"], "text": [T]}))],
        "holds string, no images",
    ),
    (
        "nothing but what systems leave",
        [(".DS_Store", b"\0"), ("._a.tar", b"\0")],
        r"and no .tar file, but .DS_Store, ._a.tar",
    ),
    ("nothing but texts", [("a.txt", T), ("b.md", T)], r"and no .tar file, but a.txt, b.md"),
    ("an empty tar", [("a.tar", b"")], "a.tar: is not a whole tar file"),
    ("a tar that is none", [("a.tar", b"no tar" * 200)], "a.tar: is not a whole tar file"),
    ("a tar of Zstandard", [("a.tar", b"\x28\xb5\x2f\xfd" + b"\0" * 600)], "compressed by Zstandard"),
    ("one of them by its name", [("a.png", P), ("a.tar.zst", b"\x28\xb5\x2f\xfd")], "compressed by Zstandard"),
    ("a zip that is called a tar", [("a.tar", b"PK\3\4" + b"\0" * 600)], "compressed by zip"),
)


@pytest.mark.parametrize(("files", "captions", "skipped"), [case[1:] for case in TARS], ids=[case[0] for case in TARS])
def test_what_is_in_a_tar_is_used_or_counted_and_named(
    files: Files, captions: dict[str, str], skipped: dict[str, str], tmp_path: Path
) -> None:
    root = write_files(tmp_path / "data", [("t.tar", tar_bytes(files))])
    named = [{name.replace("t:", "t.tar:", 1): said for name, said in each.items()} for each in (captions, skipped)]
    adds_up(root, tmp_path / "cache", *named)


@pytest.mark.parametrize(
    ("images", "texts", "caption", "reason"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS]
)
def test_what_is_in_a_row_is_used_or_counted_and_named(
    images: pa.Array, texts: pa.Array, caption: str | None, reason: str | None, tmp_path: Path
) -> None:
    root = write_files(tmp_path / "data", [("t.parquet", parquet_bytes({"image": images, "text": texts}))])
    name = "t.parquet, row 0 of group 0"
    adds_up(
        root, tmp_path / "cache", {} if caption is None else {name: caption}, {} if reason is None else {name: reason}
    )


@pytest.mark.parametrize(("files", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_read_at_all_is_one_line(files: Files, says: str, tmp_path: Path) -> None:
    root = write_files(tmp_path / "data", files)
    with pytest.raises(UserError, match=re.escape(says)) as refused:
        read_all(root, tmp_path / "cache")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_may_be_compressed_or_stand_behind_another(kind: str, tmp_path: Path) -> None:
    one, two = (tar_bytes([(f"{n}.png", P), (f"{n}.txt", T)], kind) for n in (1, 2))
    root = write_files(tmp_path / "data", [("t.tgz", one + two if kind != "w" else one + b"\0" * 1024 + two)])
    adds_up(root, tmp_path / "cache", {"t.tgz: 1.png": T, "t.tgz: 2.png": T}, {})


def test_a_tar_that_is_cut_anywhere_is_never_a_shorter_set(tmp_path: Path) -> None:
    """Only what is behind the first block of its end may be missing."""
    whole = tar_bytes([("1.png", P), ("1.txt", T), ("2.png", P), ("2.txt", "x" * 600)])
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for place in [*range(0, end + 512, 256), end - 1, end + 1]:
        file = tmp_path / f"{place}.tar"
        file.write_bytes(whole[:place])
        if place > end:
            assert len(read_all(file, tmp_path / "cache").captions) == 2
        else:
            with pytest.raises(UserError, match=r"is not a whole tar file"):
                read_all(file, tmp_path / "cache")


def test_a_tar_that_is_cut_is_told_before_an_image_of_any_is_read(tmp_path: Path) -> None:
    whole = tar_bytes([("1.png", P), ("1.txt", T)])
    root = write_files(tmp_path / "data", [("a.tar", whole), ("b.tar", whole[: len(whole.rstrip(b"\0"))])])
    with pytest.raises(UserError, match=r"b\.tar: is not a whole tar file"):
        find_shards(str(root))


@pytest.mark.parametrize("kind", ["w:gz", "w:bz2", "w:xz"])
def test_so_it_is_where_it_is_compressed(kind: str, tmp_path: Path) -> None:
    whole = tar_bytes([("1.png", P), ("1.txt", T)], kind)
    for place in range(1, len(whole) - 1, max(1, len(whole) // 12)):
        (tmp_path / "t.tar").write_bytes(whole[:place])
        with pytest.raises(UserError, match=r"is not a whole tar file"):
            read_all(tmp_path / "t.tar", tmp_path / "cache")


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path: Path) -> None:
    whole = bytearray(tar_bytes([(f"{n}.png", P) for n in range(3)]))
    whole[1024 + 150] ^= 1
    (tmp_path / "t.tar").write_bytes(whole)
    with pytest.raises(UserError, match="there is no header of a member at byte 1024"):
        read_all(tmp_path / "t.tar", tmp_path / "cache")


def test_a_parquet_file_that_is_cut_or_damaged_is_never_a_shorter_set(tmp_path: Path) -> None:
    columns = {"image": [grey(n, size=(9, 9)) for n in range(30)], "text": [f"fox {n}" for n in range(30)]}
    whole = parquet_bytes(columns, row_group_size=10, compression="gzip")
    damaged = bytearray(whole)
    damaged[200:400] = b"\xff" * 200
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:8], b"", bytes(damaged)):
        (tmp_path / "t.parquet").write_bytes(content)
        with pytest.raises(UserError, match="copy it again"):
            read_all(tmp_path / "t.parquet", tmp_path / "cache")
