"""Reads a configuration: one YAML file, overrides, and one clear line for whatever is wrong with them."""

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from advdmd_ray.config.whole import Config
from advdmd_ray.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return close[0] if close else ", ".join(names)


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the section that holds `location`; positions in lists lead to the same section."""
    section = model
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[str(part)].annotation
        candidates = (annotation, *get_args(annotation))
        flat = (inner for candidate in candidates for inner in (candidate, *get_args(candidate)))
        section = next(c for c in flat if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)


def _one_line(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """The first problem of a failed validation as one line: what came, what is allowed, what to do."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        names = _fields_at(model, problem["loc"])
        nearest = _nearest(str(problem["loc"][-1]), names)
        parent = ".".join(str(part) for part in problem["loc"][:-1])
        return f"{source}: unknown key {key}; did you mean {f'{parent}.' if parent else ''}{nearest}?"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return f"{source}: {message}"
    if problem["type"] == "value_error":
        return f"{source}: {key}: {message}"
    return f"{source}: {key} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def set_value(tree: dict[str, Any], key: str, value: Any) -> None:
    """Writes the value of one `section.key` into the tree.

    Raises:
        UserError: if the key is not of this form, or a part of it is a value already.
    """
    parts = key.strip().split(".")
    if not all(parts):
        raise UserError(f"override {key!r}: expected section.key, such as rollout.actors")
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"override {key!r}: {part} is a value, not a section")
        node = child
    node[parts[-1]] = value


def _apply_override(tree: dict[str, Any], text: str) -> None:
    """Writes one `section.key=value` into the tree; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"override {text!r}: expected section.key=value, such as rollout.actors=4")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override {text!r}: the value is not valid YAML; quote it") from None
    set_value(tree, key, parsed)


def read_tree(path: Path) -> dict[str, Any]:
    """The sections of a YAML file, as they stand there.

    Raises:
        UserError: for a missing file, one that is not YAML, or YAML that has no sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; see configs/ for the ones that ship") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); give a readable YAML file") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML: {where}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as rollout:, got {type(tree).__name__}")
    return tree


def validated(model: type[Model], tree: dict[str, Any], source: str) -> Model:
    """The tree as `model`.

    Args:
        model: `Config`, or the model of another kind of file.
        tree: Its sections.
        source: What the one line of an error begins with, such as the file's path.

    Raises:
        UserError: for an unknown key (the nearest valid one is named), a wrong type, a value out of range, or
            sections that contradict each other. One line each.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UserError(_one_line(error, model, source)) from None


def read_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Reads a YAML file, applies `section.key=value` overrides and validates the whole.

    Raises:
        UserError: for a missing or malformed file, an unknown key (the nearest valid one is named), a wrong
            type, a value out of range, or sections that contradict each other. One line each.
    """
    tree = read_tree(Path(path))
    for override in overrides or []:
        _apply_override(tree, override)
    return validated(Config, tree, str(path))


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; `read_config` of it gives the same `Config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)
