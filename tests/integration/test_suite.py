"""A benchmark drawn by Ray actors: interrupted, resumed, and the same images whoever draws them."""

import json
from pathlib import Path

import pytest

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.suites.layout import GenEval
from advdmd_ray.runtime.suite import SuiteSettings, draw_suite

SETTINGS = SuiteSettings("builtin:digits", 2, None, None, None, "float32", seed=3)


def _suite(tmp_path: Path) -> GenEval:
    words = ("one", "two", "three")
    lines = [json.dumps({"tag": "single_object", "prompt": f"a handwritten {word}"}) for word in words]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    return GenEval(tmp_path / "metadata.jsonl", 2)


def _images(out: Path) -> dict[str, bytes]:
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("*.png"))}


def test_what_is_missing_is_drawn_again_and_is_what_it_was(tmp_path: Path) -> None:
    suite, out, told = _suite(tmp_path), tmp_path / "out", list[tuple[int, int]]()
    assert draw_suite(suite, out, SETTINGS, actors=2, progress=lambda done, of: told.append((done, of))) == 3
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    whole = _images(out)
    assert len(set(whole.values())) == len(whole) == 6
    (out / "00001" / "samples" / "0001.png").unlink()
    # By one actor in place of two, and after half a prompt: the images are those of their seeds all the same.
    assert draw_suite(suite, out, SETTINGS) == 1
    assert _images(out) == whole
    assert draw_suite(suite, out, SETTINGS) == 0
    assert not (tmp_path / "out.drafts").exists()


def test_a_pipeline_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    settings = SuiteSettings(str(tmp_path / "nowhere"), None, None, None, None, "float32", 0)
    with pytest.raises(UserError, match="no such folder"):
        draw_suite(_suite(tmp_path), tmp_path / "out", settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata.jsonl"]
