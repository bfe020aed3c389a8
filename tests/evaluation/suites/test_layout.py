"""Benchmarks on disk: every prompt and image once, where the official scorers look, whatever was there before."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.suites.layout import (
    DpgBench,
    GenEval,
    Suite,
    check_settings,
    claim_settings,
    missing,
    remove_drafts,
)

DATA = Path(__file__).parents[4] / "shared" / "data"
LINES = ['{"tag": "two_object", "prompt": "a fox and a boat"}', '{"tag": "colors", "prompt": "a red \\u00e9clair"}']


def images(value: int, count: int) -> np.ndarray:
    return np.stack([np.full((4, 6, 3), value + number, dtype=np.uint8) for number in range(count)])


def geneval(tmp_path: Path, count: int = 3) -> GenEval:
    (tmp_path / "metadata.jsonl").write_text("\n".join(LINES) + "\n")
    return GenEval(tmp_path / "metadata.jsonl", count)


def dpg(tmp_path: Path) -> DpgBench:
    (tmp_path / "prompts").mkdir()
    for name, text in (("12", "a fox\n in a boat\n"), ("COCO_1", "a boat")):
        (tmp_path / "prompts" / f"{name}.txt").write_text(text)
    return DpgBench(tmp_path / "prompts")


def test_geneval_is_numbered_folders_with_the_very_lines_and_numbered_samples(tmp_path: Path) -> None:
    suite, out = geneval(tmp_path), tmp_path / "out"
    assert [prompt.text for prompt in suite.prompts] == ["a fox and a boat", "a red éclair"]
    for prompt in suite.prompts:
        suite.write(out, prompt, images(10 * prompt.index, 3))
    remove_drafts(out)
    files = sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file())
    assert files == [
        f"{folder}/{name}"
        for folder in ("00000", "00001")
        for name in ("metadata.jsonl", *(f"samples/{number:04d}.png" for number in range(3)))
    ]
    # As the official scorer reads it: one JSON object, equal to the line of the metadata file.
    assert [json.loads((out / name / "metadata.jsonl").read_text()) for name in ("00000", "00001")] == [
        json.loads(line) for line in LINES
    ]
    with Image.open(out / "00001" / "samples" / "0002.png") as image:
        assert image.size == (6, 4)
        assert image.getpixel((0, 0)) == (12, 12, 12)


def test_dpg_is_one_grid_a_prompt_row_by_row_and_nothing_else(tmp_path: Path) -> None:
    suite, out = dpg(tmp_path), tmp_path / "out"
    claim_settings(out, {"seed": 0})
    assert [prompt.text for prompt in suite.prompts] == ["a fox in a boat", "a boat"]
    for prompt in suite.prompts:
        suite.write(out, prompt, images(10, 4))
    assert sorted(file.name for file in out.iterdir()) == ["12.png", "COCO_1.png"]
    with Image.open(out / "12.png") as grid:
        assert grid.size == (12, 8)
        corners = [grid.getpixel(place) for place in ((0, 0), (6, 0), (0, 4), (6, 4))]
    assert corners == [(value,) * 3 for value in (10, 11, 12, 13)]
    remove_drafts(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.settings.json", "prompts"]


@pytest.mark.parametrize("kind", ["geneval", "dpg"])
def test_what_is_missing_is_what_has_not_all_its_files(tmp_path: Path, kind: str) -> None:
    suite: Suite = geneval(tmp_path) if kind == "geneval" else dpg(tmp_path)
    out = tmp_path / "out"
    assert missing(suite, out) == list(suite.prompts)
    suite.write(out, suite.prompts[1], images(0, suite.images))
    assert missing(suite, out) == [suite.prompts[0]]
    suite.write(out, suite.prompts[0], images(0, suite.images))
    assert missing(suite, out) == []
    next(iter(sorted(out.rglob("*.png")))).unlink()
    assert missing(suite, out) == [suite.prompts[0]]


def test_images_of_other_settings_are_never_mixed(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    claim_settings(out, {"seed": 0, "steps": None})
    claim_settings(out, {"seed": 0, "steps": None})
    check_settings(out, {"seed": 0, "steps": None})
    with pytest.raises(UserError, match="holds images with seed 0, asked for is 1"):
        check_settings(out, {"seed": 1, "steps": None})
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "00000").mkdir()
    with pytest.raises(UserError, match="is not empty"):
        check_settings(strange, {"seed": 0})


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"tag": "colors"}'])
def test_a_metadata_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(UserError, match="--metadata"):
        GenEval(tmp_path / "metadata.jsonl", 4)


def test_a_folder_without_prompts_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="--prompts"):
            DpgBench(path)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_metadata_may_have_a_mark_and_a_prompt_any_separator(tmp_path: Path, coding: str) -> None:
    line = '{"tag": "colors", "prompt": "a\u2028red \x85fox"}'
    (tmp_path / "m.jsonl").write_text(f"{line}\r\n{LINES[0]}\r\n\r\n", encoding=coding, newline="")
    suite = GenEval(tmp_path / "m.jsonl", 1)
    assert [prompt.text for prompt in suite.prompts] == ["a\u2028red \x85fox", "a fox and a boat"]
    suite.write(tmp_path / "out", suite.prompts[0], images(0, 1))
    assert json.loads((tmp_path / "out" / "00000" / "metadata.jsonl").read_text()) == json.loads(line)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("null", "expected GenEval's JSON object with a prompt"),
        ('"\u200b"', "expected GenEval's JSON object with a prompt"),
        (r'"a\u0000b"', r"the prompt has the control character U\+0000"),
        (r'"a \ud83d"', r"the prompt has half a character, U\+D83D"),
        ('"a fox", "tag": 5', "expected GenEval's JSON object with a prompt and a tag"),
    ],
)
def test_a_prompt_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "m.jsonl").write_text(f'{LINES[0]}\n{{"tag": "colors", "prompt": {text}}}\n')
    with pytest.raises(UserError, match=f"line 2: {says}"):
        GenEval(tmp_path / "m.jsonl", 1)


def test_a_prompts_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / f"{'n' * 251}.txt").write_text("a fox")
    suite = DpgBench(tmp_path / "prompts")
    suite.write(tmp_path / "out", suite.prompts[0], images(0, 4))
    assert missing(suite, tmp_path / "out") == []


def test_what_a_system_leaves_beside_prompts_is_none_and_told(tmp_path: Path) -> None:
    plain = dpg(tmp_path)
    for name, content in (
        ("._12.txt", b"\0\5\x16\7\0"),
        (".DS_Store", b"\0"),
        ("Thumbs.db", b"\0"),
        ("list.csv", b"x"),
    ):
        (tmp_path / "prompts" / name).write_bytes(content)
    (tmp_path / "prompts" / "M.TXT").write_text("a mast", encoding="utf-16")
    suite = DpgBench(tmp_path / "prompts")
    assert [prompt.text for prompt in suite.prompts] == ["a fox in a boat", "a boat", "a mast"]
    assert (plain.left_out, suite.left_out) == ((), (".DS_Store", "._12.txt", "Thumbs.db", "list.csv"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("12.TXT", b"a fox", "names a prompt that is there already"),
        ("e.txt", "\u200b\n".encode(), "e.txt is empty"),
        ("e.txt", b"a \7 bell", r"e.txt has the control character U\+0007"),
        ("e.txt", "caf\xe9".encode("latin-1"), "is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_file_that_is_no_prompt_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    dpg(tmp_path)
    (tmp_path / "prompts" / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        DpgBench(tmp_path / "prompts")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the official prompt files are not at {DATA}")
def test_the_official_prompts_make_every_file_once_though_it_was_interrupted(tmp_path: Path) -> None:
    suites: tuple[tuple[Suite, int], ...] = (
        (GenEval(DATA / "geneval" / "evaluation_metadata.jsonl", 4), 553),
        (DpgBench(DATA / "dpg_bench" / "prompts"), 1065),
    )
    for suite, count in suites:
        out = tmp_path / suite.name
        assert len({prompt.name for prompt in suite.prompts}) == len(suite.prompts) == count
        assert all(prompt.text for prompt in suite.prompts)
        small = np.zeros((suite.images, 1, 1, 3), dtype=np.uint8)
        written: list[str] = []
        for stop in (100, count):  # the first time it ends after 100 prompts
            for prompt in missing(suite, out)[:stop]:
                written.append(prompt.name)
                suite.write(out, prompt, small)
        assert sorted(written) == sorted(prompt.name for prompt in suite.prompts)
        files = sorted(out.rglob("*.png"))
        assert len(files) == (4 * count if suite.name == "geneval" else count)
    folders = sorted(path for path in (tmp_path / "geneval").iterdir())
    official = (DATA / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()
    assert [path.name for path in folders] == [f"{index:05d}" for index in range(553)]
    for folder, line in zip(folders, official, strict=True):
        assert json.loads((folder / "metadata.jsonl").read_text()) == json.loads(line)
        assert all(re.fullmatch(r"\d+\.png", sample.name) for sample in (folder / "samples").iterdir())
