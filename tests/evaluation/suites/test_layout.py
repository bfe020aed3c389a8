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
