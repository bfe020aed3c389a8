"""What the documents say of files, targets, commands and settings is true."""

import re
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray import cli
from advdmd_ray.config import Config
from advdmd_ray.metrics import CATALOGUE

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "deploy/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

SUFFIXES = {"py", "jsonl", "lock"}
"""What makes `rollout.py` a file and no setting."""


def texts() -> list[Any]:
    return [pytest.param(path.read_text(encoding="utf-8"), path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS]


@pytest.mark.parametrize(("text", "path"), texts())
def test_links_lead_to_files(text: str, path: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize(("text", "path"), texts())
def test_make_targets_exist(text: str, path: Path) -> None:
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, flags=re.MULTILINE))
    assert named <= TARGETS, path


@pytest.mark.parametrize(("text", "path"), texts())
def test_settings_in_code_marks_exist(text: str, path: Path) -> None:
    """A lab note may name one of its day that is gone, and marks it with a dagger."""
    named = re.findall(r"`([a-z_]+)\.([a-z_]+)(?:[=:][^`]*)?`(?!†)", text)
    settings = [(section, key) for section, key in named if section in Config.model_fields and key not in SUFFIXES]
    assert [f"{section}.{key}" for section, key in settings if key not in keys_of(section)] == [], path


def keys_of(section: str) -> set[str]:
    return set(type(Config().__dict__[section]).model_fields)


@pytest.mark.parametrize(("text", "path"), texts())
def test_series_in_code_marks_are_in_the_catalogue(text: str, path: Path) -> None:
    named = {name for name in re.findall(r"`(advdmd_[a-z_]+)`", text) if name != "advdmd_ray"}
    assert named <= set(CATALOGUE), path


def test_commands_of_the_readme_parse() -> None:
    lines = re.findall(
        r"^    (?:advdmd |.*python -m advdmd_ray\.run )(.*)$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert len(lines) > 5
    for line in lines:
        words = re.sub(r"\[[^]]*\]", "", line)
        argv = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', words)]
        commands = {"run", "pretrain", "sample", "export", "evaluate", "compare", "doctor"}
        cli.parse_arguments(argv if argv[0] in commands else ["run", *argv])


def test_layers_in_the_design_are_those_that_are_checked() -> None:
    contract = (ROOT / "pyproject.toml").read_text().split("[[tool.importlinter.contracts]]")[1]
    checked = re.findall(r"[a-z_]+", " ".join(re.findall(r'^  "(.*)",$', contract, re.MULTILINE)))
    design = (ROOT / "docs" / "DESIGN.md").read_text().split("## Layers")[1].split("## Words")[0]
    shown = re.findall(r"[a-z_]+", " ".join(re.findall(r"^    (.*)$", design, re.MULTILINE)))
    assert shown == checked
