"""Folders as others leave them: every image and caption is used, or counted and named, and the counts add up."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray.data.files.items import FOREIGN, NO_IMAGE
from data_sets import Case, Files, Link, Pipe, adds_up, grey, parquet_bytes, tar_bytes, write_files

P, T = grey(), "a fox"
ALONE = "is a caption without an image"
LATIN, WIDE = "a café".encode("latin-1"), "a café".encode("utf-16")

FORMATS = {
    "GIF": "gif", "TIFF": "tiff", "AVIF": "avif", "JPEG": "jfif", "BMP": "dib", "WEBP": "webp",
    "JPEG2000": "jp2", "PPM": "pgm", "QOI": "qoi", "PNG": "apng", "MPO": "jpe", "ICO": "ico",
}  # fmt: skip

FOLDERS: tuple[Case, ...] = (
    (
        "the formats of the field by their suffixes",
        [
            *((f"{kind}.{suffix}", grey(kind=kind)) for kind, suffix in FORMATS.items()),
            *((f"{kind}.txt", T) for kind in FORMATS),
        ],
        {f"{kind}.{suffix}": T for kind, suffix in FORMATS.items()},
        {},
    ),
    ("upper case", [("A.JPG", grey(kind="JPEG")), ("A.TXT", T)], {"A.JPG": T}, {}),
    ("a name of one system and its text of another", [("Fox.png", P), ("fox.txt", T)], {"Fox.png": T}, {}),
    (
        "two texts of names alike are no image's",
        [("FOX.png", P), ("fox.txt", T), ("Fox.txt", T)],
        {},
        {"FOX.png": "! has no caption", "fox.txt": ALONE, "Fox.txt": ALONE},
    ),
    (
        "accents of a Mac and of all others",
        [(unicodedata.normalize("NFD", "é.png"), P), (unicodedata.normalize("NFC", "é.txt"), T)],
        {unicodedata.normalize("NFD", "é.png"): T},
        {},
    ),
    (
        "what systems leave",
        [
            ("a.png", P),
            ("a.txt", T),
            ("._a.png", b"\0\5\x16\7"),
            ("._a.txt", b"\0"),
            (".DS_Store", b"\0"),
            ("Thumbs.db", b"\0"),
            ("desktop.ini", T),
            ("a.png:Zone.Identifier", "[ZoneTransfer]"),
            ("__MACOSX/a.png", P),
            ("__MACOSX/._a.png", b"\0"),
            ("@eaDir/x.jpg", P),
        ],
        {"a.png": T},
        dict.fromkeys(
            (
                *("._a.png", "._a.txt", ".DS_Store", "Thumbs.db", "desktop.ini", "a.png:Zone.Identifier"),
                *("__MACOSX/", "@eaDir/"),
            ),
            FOREIGN,
        ),
    ),
    (
        "hidden folders are one each",
        [("a.png", P), ("a.txt", T), (".git/x.png", P), (".git/y.png", P), ("deep/.ipynb_checkpoints/a.png", P)],
        {"a.png": T},
        {".git/": FOREIGN, "deep/.ipynb_checkpoints/": FOREIGN},
    ),
    (
        "links to folders, twice and to nowhere",
        [
            ("set/a.png", P),
            ("set/a.txt", T),
            ("set/far", Link("../far")),
            ("set/near", Link("../far")),
            ("set/loop", Link("../set")),
            ("far/b.png", P),
            ("far/b.txt", "a boat"),
            ("far/again", Link("../set")),
            ("set/gone.png", Link("nowhere")),
            ("set/gone.txt", Link("nowhere")),
            ("set/self.jpg", Link("self.jpg")),
            ("set/c.png", Link("../far/b.png")),
            ("set/c.txt", Link("../far/b.txt")),
        ],
        {"a.png": T, "far/b.png": "a boat", "c.png": "a boat"},
        {
            "near/": "is a link to a folder that is read already",
            "loop/": "is a link to a folder that is read already",
            "far/again/": "is a link to a folder that is read already",
            "gone.png": "! is a link that leads nowhere",
            "gone.txt": "is a link that leads nowhere",
            "self.jpg": "! is a link that leads nowhere",
        },
    ),
    (
        "what is no file",
        [("a.png", P), ("a.txt", T), ("b.png", Pipe()), ("c", Pipe()), ("d.png", Link("/dev/zero"))],
        {"a.png": T},
        {"b.png": "! is no file", "c": "is no file", "d.png": "! is no file"},
    ),
    (
        "names that say nothing, or something else",
        [
            ("photo", P),
            ("photo.txt", T),
            ("b.dat", P),
            ("b.txt", T),
            ("c.jpg", P),
            ("c.txt", T),
            ("d.heic", b"\0\0\0\x18ftypheic"),
            ("d.txt", T),
            ("e.svg", "<svg/>"),
            ("notes.md", "# notes"),
            ("f.zip", b"PK\3\4"),
            ("g.psd", b"8BPS\0\1"),
            ("h.eps", "%!PS-Adobe-3.0 EPSF-3.0\n"),
        ],
        {"photo": T, "b.dat": T, "c.jpg": T},
        {
            name: f"{NO_IMAGE} ({name[name.rfind('.') :]})"
            for name in ("d.heic", "e.svg", "notes.md", "f.zip", "g.psd", "h.eps")
        },
    ),
    (
        "what says that it is an image and is none",
        [
            ("a.png", b""),
            ("a.txt", T),
            ("b.jpg", "<html>404</html>"),
            ("b.txt", T),
            ("c.png", P[:40]),
            ("c.txt", T),
            ("d.png", grey(size=(2, 2))),
            ("d.txt", T),
            ("e.png", P),
            ("e.txt", T),
        ],
        {"e.png": T},
        {
            "a.png": "! is empty",
            "b.jpg": "! is no image, or a broken one",
            "c.png": "! is no image, or a broken one",
            "d.png": "! has too few pixels (2 x 2)",
        },
    ),
    (
        "captions that have no image",
        [("a.png", P), ("a.txt", T), ("b.txt", T), ("c.json", "{}")],
        {"a.png": T},
        {"b.txt": ALONE, "c.json": ALONE},
    ),
    (
        "the next kind of caption where one says nothing",
        [
            ("a.png", P),
            ("a.txt", " \n"),
            ("a.json", '{"caption": "a fox"}'),
            ("b.png", P),
            ("b.txt", "\u200b\ufeff"),
            ("b.caption", T),
            ("c.png", P),
            ("c.txt", ""),
            ("d.png", P),
        ],
        {"a.png": T, "b.png": T},
        {"c.png": "! has no caption", "d.png": "! has no caption"},
    ),
    (
        "captions in other encodings",
        [
            ("a.png", P),
            ("a.txt", WIDE),
            ("b.png", P),
            ("b.txt", "\ufeffa café"),
            ("c.png", P),
            ("c.txt", LATIN),
            ("d.png", P),
            ("d.txt", "a fox".encode("utf-16-le")),
            ("e.png", P),
            ("e.txt", "狐".encode("shift-jis")),
            ("f.png", P),
            ("f.txt", "a café".encode("utf-32")),
        ],
        {"a.png": "a café", "b.png": "a café", "f.png": "a café"},
        {
            "c.png": "! its caption is not UTF-8; save the file as UTF-8 (c.txt)",
            "d.png": "! its caption holds NUL characters, as UTF-16 without a mark does; "
            "save the file as UTF-8 (d.txt)",
            "e.png": "! its caption is not UTF-8; save the file as UTF-8 (e.txt)",
        },
    ),
    (
        "captions that no tokenizer takes",
        [
            ("a.png", P),
            ("a.txt", "a \0fox, quick and brown"),
            ("b.png", P),
            ("b.txt", "a \x1b[31mfox"),
            ("c.png", P),
            ("c.json", r'{"text": "a \ud83d fox"}'),
            ("d.png", P),
            ("d.txt", "fox " * 5000),
            ("e.png", P),
            ("e.txt", "fox " * 2000),
        ],
        {"e.png": ("fox " * 2000).strip()},
        {
            "a.png": "! its caption has the control character U+0000",
            "b.png": "! its caption has the control character U+001B",
            "c.png": "! its caption has half a character, U+D83D",
            "d.png": "! its caption has more than 10000 characters (it has 20000)",
        },
    ),
    (
        "captions in objects and lists",
        [
            ("a.png", P),
            ("a.json", '{"prompt": ["", "a fox"]}'),
            ("b.png", P),
            ("b.json", '["a fox", "b"]'),
            ("c.png", P),
            ("c.json", '"a fox"'),
            ("d.png", P),
            ("d.json", '{"text": null, "caption": {"text": "a fox"}}'),
            ("e.png", P),
            ("e.json", '{"en": "a fox"}'),
            ("f.png", P),
            ("f.json", '{"text": 7}'),
            ("g.png", P),
            ("g.json", '{"text": "a fox"'),
            ("h.png", P),
            ("h.json", '{"text": "a", "text": "b"}'),
            ("i.png", P),
            ("i.json", "[" * 20000),
            ("j.png", P),
            ("j.json", "null"),
            ("k.png", P),
            ("k.json", "[" * 500 + '"a fox"' + "]" * 500),
            ("l.png", P),
            ("l.json", "7" * 5000),
            ("m.png", P),
            ("m.json", r'{"a\n\u001b": 1}'),
        ],
        dict.fromkeys(("a.png", "b.png", "c.png", "d.png"), T),
        {
            "e.png": "! its caption has none of text, caption, prompt, captions (it has en)",
            "f.png": "! its caption is no text (it is 7)",
            "g.png": "! its caption is no whole JSON (g.json)",
            "h.png": "! its caption has the key 'text' twice (h.json)",
            "i.png": "! its caption is JSON that is nested too deeply (i.json)",
            "j.png": "! has no caption",
            "k.png": "! its caption is nested more than 16 deep",
            "l.png": "! its caption is no text (it is inf)",
            "m.png": r"! its caption has none of text, caption, prompt, captions (it has a\n\x1b)",
        },
    ),
    (
        "names that no terminal shows",
        [("a\n\x1b[31m.png", P), ("a\n\x1b[31m.txt", T), ("caf\udce9.png", P), ("caf\udce9.txt", T)],
        {"a\\n\\x1b[31m.png": T, "caf\\udce9.png": T},
        {},
    ),
    (
        "kinds beside each other, in upper case too",
        [
            ("a.png", P),
            ("a.txt", T),
            ("b.TAR", tar_bytes([("1.png", P), ("1.txt", "in a tar")])),
            ("deep/c.PARQUET", parquet_bytes({"image": [P], "text": ["in a table"]})),
            ("._b.tar", b"\0"),
            ("._c.parquet", b"\0"),
        ],
        {"a.png": T, "b.TAR: 1.png": "in a tar", "deep/c.PARQUET, row 0 of group 0": "in a table"},
        {"._b.tar": FOREIGN, "._c.parquet": FOREIGN},
    ),
    (
        "files of one name in two folders",
        [(f"{part}/a.tar", tar_bytes([("1.png", P), ("1.txt", T), ("2.png", P)])) for part in ("x", "y")],
        {"x/a.tar: 1.png": T, "y/a.tar: 1.png": T},
        {"x/a.tar: 2.png": "! has no caption", "y/a.tar: 2.png": "! has no caption"},
    ),
    (
        "a set that has lost parts",
        [(f"train-0000{part}-of-00003.parquet", parquet_bytes({"image": [P], "text": [T]})) for part in (0, 2)],
        {f"train-0000{part}-of-00003.parquet, row 0 of group 0": T for part in (0, 2)},
        {"train-00001-of-00003.parquet": "is not there, and others of its set are"},
    ),
)


@pytest.mark.parametrize(
    ("files", "captions", "skipped"), [case[1:] for case in FOLDERS], ids=[case[0] for case in FOLDERS]
)
def test_what_is_in_a_folder_is_used_or_counted_and_named(
    files: Files, captions: dict[str, str], skipped: dict[str, str], tmp_path: Path
) -> None:
    root = write_files(tmp_path / "data", files)
    adds_up(root / "set" if (root / "set").exists() else root, tmp_path / "cache", captions, skipped)


def test_a_folder_that_cannot_be_opened_counts_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scandir = write_files(tmp_path / "data", [("a.png", P), ("a.txt", T), ("shut/b.png", P)]), os.scandir

    def guarded(path: Any) -> Any:
        if str(path).rstrip("/").endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    adds_up(root, tmp_path / "cache", {"a.png": T}, {"shut/": "! is a folder that cannot be read (Permission denied)"})


def test_one_image_has_the_caption_beside_it(tmp_path: Path) -> None:
    files = [
        ("a.png", P),
        ("a.TXT", T),
        ("b.png", P),
        ("metadata.jsonl", json.dumps({"file_name": "b.png", "text": T})),
    ]
    root = write_files(tmp_path / "data", files)
    adds_up(root / "a.png", tmp_path / "cache", {"a.png": T}, {})
