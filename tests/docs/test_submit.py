"""Commands of the documents that submit a job say where it writes: it runs in a folder that Ray deletes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"ray job submit(?:[^\n]*\\\n)*[^\n]*advdmd_ray\.run[^\n]*")
WRITTEN = [*(ROOT / "docs" / "guides").glob("*.md"), *(ROOT / "deploy").glob("*.md"), ROOT / "README.md"]
SUBMITTED = [(file.name, command) for file in WRITTEN for command in COMMAND.findall(file.read_text())]


@pytest.mark.parametrize(("file", "command"), SUBMITTED)
def test_a_submitted_command_has_an_absolute_output(file: str, command: str) -> None:
    assert re.search(r"\brun\.output=/\w+", command), f"{file}: {command}"


def test_there_are_such_commands() -> None:
    assert {file for file, _ in SUBMITTED} >= {"cluster.md", "README.md"}
