"""What the documents say of files, targets, commands and settings is true."""

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray import cli
from advdmd_ray.cli.entry import COMMANDS
from advdmd_ray.config import Config, read_config
from advdmd_ray.config.pretrain import read_pretrain
from advdmd_ray.config.shipped import shipped_names
from advdmd_ray.metrics.catalogue import CATALOGUE
from advdmd_ray.metrics.exposition import INFO

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
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
    assert named <= {*CATALOGUE, INFO}, path


@pytest.mark.parametrize(("text", "path"), texts())
def test_files_of_the_repository_that_are_named_exist(text: str, path: Path) -> None:
    named = set(re.findall(r"(?<![\w/.~])((?:\w+/)*\w+\.py|configs/[\w/]+\.yaml)(?!\w)(?!`?†)", text))
    assert sorted(name for name in named if not stands(name)) == [], path


def stands(name: str) -> bool:
    """Whether a file is there: from the root, from the package, or by a bare name anywhere in the package."""
    package = ROOT / "advdmd_ray"
    return (ROOT / name).is_file() or (package / name).is_file() or ("/" not in name and any(package.rglob(name)))


@pytest.mark.parametrize(("text", "path"), texts())
def test_commands_parse_and_their_settings_are_valid(text: str, path: Path) -> None:
    for line in commands_in(text):
        args = cli.parse_arguments(words_of(line))
        read = read_pretrain if args.command == "pretrain" else read_config
        name = getattr(args, "config", None)
        if name in shipped_names():
            read(name, args.overrides)
        elif name and (ROOT / name).exists():
            read(ROOT / name, args.overrides)


def test_commands_are_found_where_they_stand() -> None:
    readme, commands = (ROOT / "README.md").read_text(), (ROOT / "docs/guides/commands.md").read_text()
    assert commands_in(readme)
    assert {words_of(line)[0] for line in commands_in(commands)} == {command.name for command in COMMANDS}
    assert words_of('python -m advdmd_ray.run --config a.yaml run.name="b" [--fresh]') == [
        *("run", "--config", "a.yaml", "run.name=b")
    ]


def commands_in(text: str) -> list[str]:
    """Lines of code, and code marks with arguments, that call the program."""
    whole = text.replace("\\\n", " ")
    lines = re.findall(r"^    (?:[^#`\n]* )?(advdmd \w.*|python -m advdmd_ray\.run .*)$", whole, re.MULTILINE)
    return lines + re.findall(r"`(advdmd \w+ [^`]+)`", whole)


def words_of(line: str) -> list[str]:
    """A command line's arguments, without what is optional, a comment, or the program's name."""
    words = shlex.split(re.sub(r" \[[^]]*\]", "", line), comments=True)
    return words[1:] if words[0] == "advdmd" else ["run", *words[3:]]


@pytest.mark.parametrize(("text", "path"), texts())
def test_examples_in_python_import_what_exists(text: str, path: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("advdmd_ray"):
                module = importlib.import_module(str(node.module))
                assert [name.name for name in node.names if not hasattr(module, name.name)] == [], path


def test_the_readme_has_at_most_1200_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1200


def test_layers_in_the_design_are_those_that_are_checked() -> None:
    contract = (ROOT / "pyproject.toml").read_text().split("[[tool.importlinter.contracts]]")[1]
    checked = re.findall(r"[a-z_]+", " ".join(re.findall(r'^  "(.*)",$', contract, re.MULTILINE)))
    design = (ROOT / "docs" / "DESIGN.md").read_text().split("## Layers")[1].split("## Words")[0]
    shown = re.findall(r"[a-z_]+", " ".join(re.findall(r"^    (.*)$", design, re.MULTILINE)))
    assert shown == checked
