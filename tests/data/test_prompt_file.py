"""Prompt files, good and bad."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.errors import UserError


def write(folder: Path, content: bytes) -> Path:
    file = folder / "prompts.txt"
    file.write_bytes(content)
    return file


def test_prompts_keep_their_order_and_comments_are_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, "\ufeff# ours\n a red cube \r\nzwei Würfel\n# end\n\n".encode())
    assert load_prompts(file) == ("a red cube", "zwei Würfel")


@pytest.mark.parametrize(
    ("content", "line", "fault"),
    [
        (b"one\n\ntwo\n", 2, "empty"),
        (b"one\n   \ntwo\n", 2, "empty"),
        (b"one\ntw\x00o\n", 2, "control character"),
        (b"a\tb\n", 1, "control character"),
        (b"one\ntwo\n" + b"x" * 1001 + b"\n", 3, "1001 characters"),
        (b"one\n\xff\xfe\n", 2, "is not UTF-8"),
        ("one\nun caf\xe9\n".encode("latin-1"), 2, "is not UTF-8"),
        ("one\ntwo\n".encode("utf-16-le"), 1, "as UTF-16 without a mark does"),
        ("\ufeffone\ntwo\n".encode("utf-16-le") + b"x", 3, "is not UTF-16-LE"),
        ("one\n\u200b\ntwo".encode(), 2, "empty"),
        (b"one\x85\n", 1, "UTF-8"),
        (b'one\n{"prompt": "a fox"}\n', 2, "is a JSON object or list"),
        (b'["a fox", "a boat"]\n', 1, "is a JSON object or list"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, content: bytes, line: int, fault: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=fault) as caught:
        load_prompts(file)
    assert str(caught.value).startswith(f"{file}, line {line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
def test_the_mark_at_its_beginning_says_how_a_file_is_written(tmp_path: Path, coding: str) -> None:
    mark = "\ufeff" if coding == "utf-16-be" else ""
    file = write(tmp_path, f"{mark}a caf\xe9\r\none\u2028line\n  \n".encode(coding))
    assert load_prompts(file) == ("a caf\xe9", "one\u2028line")


def test_files_put_behind_each_other_have_marks_within_and_brackets_are_no_json(tmp_path: Path) -> None:
    file = write(tmp_path, "\ufeffa fox\n\ufeffa boat\n[red] mast\n{".encode())
    assert load_prompts(file) == ("a fox", "a boat", "[red] mast", "{")


@pytest.mark.parametrize("name", ["p.csv", "p.TSV", "p.jsonl", "p.yaml", "p.parquet"])
def test_a_table_is_no_prompt_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("prompt\na fox\n")
    with pytest.raises(UserError, match="is a table or an object by its name, and no plain text"):
        load_prompts(tmp_path / name)


def test_a_pipe_is_no_prompt_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="it is a pipe or a device, and no file"):
            load_prompts(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# only a comment\n"])
def test_a_file_without_a_prompt_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match="has no prompt"):
        load_prompts(write(tmp_path, content))


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: cannot read"):
        load_prompts(tmp_path / "none.txt")


@given(st.lists(st.text("abc é#7", min_size=1, max_size=30).map(str.strip).filter(lambda s: s and s[0] != "#")))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, prompts: list[str]) -> None:
    file = write(tmp_path_factory.mktemp("p"), "".join(f"{prompt}\n" for prompt in prompts).encode())
    if prompts:
        assert load_prompts(file) == tuple(prompts)
