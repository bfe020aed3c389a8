"""Tables of captions as others leave them: every entry is used, or counted and named."""

import json
from pathlib import Path

import pytest

from data_sets import Case, Files, adds_up, grey, parquet_bytes, write_files

P, T = grey(), "a fox"


def lines(*rows: dict[str, object] | None) -> str:
    """JSON lines; None: an empty one."""
    return "".join(("" if row is None else json.dumps(row)) + "\n" for row in rows)


TABLES: tuple[Case, ...] = (
    (
        "a table in each part of a set",
        [
            (
                "train/metadata.jsonl",
                '{"file_name": "a.png", "text": "a fox"}\n{"file_name": "deep/b.png", "text": "a boat"}\n',
            ),
            ("train/a.png", P),
            ("train/deep/b.png", P),
            ("test/metadata.csv", "file_name,text\na.png,a mast\n"),
            ("test/a.png", P),
        ],
        {"train/a.png": T, "train/deep/b.png": "a boat", "test/a.png": "a mast"},
        {},
    ),
    (
        "tables of Windows and of a sheet",
        [
            ("one/metadata.csv", '\ufefffile_name;caption\r\nsub\\a.png;"a fox,\r\nquick"\r\n'),
            ("one/sub/a.png", P),
            ("two/METADATA.CSV", 'text,file_name\n"say ""fox""",./b.png\n'),
            ("two/b.png", P),
            ("three/metadata.tsv", "file_name\tprompt\nc.png\ta fox\n"),
            ("three/c.png", P),
            ("four/metadata.jsonl", '{"file_name": "d.png", "text": "a\u2028fox"}\r\n'.encode("utf-16")),
            ("four/d.png", P),
        ],
        {"one/sub/a.png": "a fox, quick", "two/b.png": 'say "fox"', "three/c.png": T, "four/d.png": T},
        {},
    ),
    (
        "a table of Parquet",
        [("metadata.parquet", parquet_bytes({"file_name": ["a.png"], "text": ["a fox"]})), ("a.png", P)],
        {"a.png": T},
        {},
    ),
    (
        "what a table names twice, does not name, or names for nothing",
        [
            (
                "metadata.jsonl",
                lines(
                    {"file_name": "a.png", "text": T},
                    None,
                    {"file_name": "a.png", "text": "a hare"},
                    {"file_name": "gone.png", "text": "a boat"},
                    {"file_name": "b.png", "text": None},
                    {"file_name": "c.png"},
                    {"file_name": "d.png", "text": 5},
                ),
            ),
            ("a.png", P),
            ("b.png", P),
            ("b.txt", T),
            ("c.png", P),
            ("d.png", P),
            ("e.png", P),
            ("e.txt", T),
        ],
        {"a.png": T, "b.png": T, "e.png": T},
        {
            "metadata.jsonl, line 3: a.png": "is a second caption of one image",
            "metadata.jsonl, line 4: gone.png": "is not there",
            "c.png": "! has no caption",
            "d.png": "! its caption is no text (it is 5)",
        },
    ),
    (
        "a table above another",
        [
            (
                "metadata.jsonl",
                lines({"file_name": "s/a.png", "text": "x"}, {"file_name": "s/b.png", "text": "a boat"}),
            ),
            ("s/metadata.jsonl", lines({"file_name": "a.png", "text": T})),
            ("s/a.png", P),
            ("s/b.png", P),
        ],
        {"s/a.png": T, "s/b.png": "a boat"},
        {"metadata.jsonl, line 1: s/a.png": "is a second caption of one image"},
    ),
    (
        "names that go up, or say more than they need",
        [
            (
                "said/metadata.jsonl",
                lines(
                    {"file_name": "../set/a.png", "text": T},
                    {"file_name": "../set//./b.png", "text": "a boat"},
                    {"file_name": "../../c.png", "text": T},
                    {"file_name": "/set/c.png", "text": T},
                    {"file_name": "metadata.jsonl", "text": T},
                ),
            ),
            *((f"set/{name}.png", P) for name in "abc"),
        ],
        {"set/a.png": T, "set/b.png": "a boat"},
        {
            "set/c.png": "! has no caption",
            "said/metadata.jsonl, line 3: ../../c.png": "is not there",
            "said/metadata.jsonl, line 4: /set/c.png": "is not there",
            "said/metadata.jsonl, line 5: metadata.jsonl": "is named as an image, and is none",
        },
    ),
    (
        "halves of characters in a table",
        [
            ("metadata.jsonl", r'{"file_name": "a.png", "text": "a \ud83d fox"}' + "\n" + r'{"file_name": "\ud83d"}'),
            ("a.png", P),
        ],
        {},
        {
            "a.png": "! its caption has half a character, U+D83D",
            r"metadata.jsonl, line 2: \ud83d": "is not there",
        },
    ),
    (
        "lines of an old Mac, lines of a sheet that say nothing, and spaces before quotes",
        [
            ("x/metadata.csv", "\rfile_name;text\ra.png;one, two, three\r"),
            ("x/a.png", P),
            ("y/metadata.csv", "file_name,text,,\r\na.png,a fox,,\r\n ,,,\r\n"),
            ("y/a.png", P),
            ("z/metadata.csv", 'file_name, text\na.png, "a fox, ""red"""\n'),
            ("z/a.png", P),
        ],
        {"x/a.png": "one, two, three", "y/a.png": T, "z/a.png": 'a fox, "red"'},
        {},
    ),
    (
        "a table that has the images itself",
        [("metadata.parquet", parquet_bytes({"file_name": ["a.png"], "image": [P], "text": [T]}))],
        {"metadata.parquet, row 0 of group 0": T},
        {},
    ),
    (
        "empty lines, spaces, marks and NULs in a table",
        [
            ("metadata.csv", "file_name, text\n\na.png,\ufeffa fox\nb.png,a \0fox\n\n"),
            ("a.png", P),
            ("b.png", P),
        ],
        {"a.png": T},
        {"b.png": "! its caption has the control character U+0000"},
    ),
)


@pytest.mark.parametrize(
    ("files", "captions", "skipped"), [case[1:] for case in TABLES], ids=[case[0] for case in TABLES]
)
def test_what_a_table_says_is_used_or_counted_and_named(
    files: Files, captions: dict[str, str], skipped: dict[str, str], tmp_path: Path
) -> None:
    adds_up(write_files(tmp_path / "data", files), tmp_path / "cache", captions, skipped)
