"""Reads a configuration: a YAML file, the files it is based on, overrides, and one clear line for what is wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from advdmd_ray.config.layers import Layer, Model, layer_of, resolve, section_of, settings_of, unknown
from advdmd_ray.config.parsing import parse_yaml, yaml_text
from advdmd_ray.config.shipped import locate, nearest_shipped
from advdmd_ray.config.whole import Config
from advdmd_ray.errors import UserError

_SHOWN = 200
"""Most characters of an override that an error repeats."""


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads the configuration of a run.

    Args:
        path: A YAML file, or the name of one that ships.
        overrides: `section.key=value`, in order; a later one wins.

    Raises:
        UserError: for a missing or malformed file, an unknown key (the nearest valid one is named), a wrong type, a
            value out of range, or sections that contradict each other. One line each, which begins with the file or the
            override that is to blame.
    """
    return read_as(Config, path, overrides)


def read_as(model: type[Model], path: str | Path, overrides: Sequence[str] = (), kind: str = "") -> Model:
    """Reads a configuration as `model`; see `read_config`.

    Args:
        model: `Config`, or one that extends it.
        path: A YAML file, or the name of one that ships.
        overrides: As of `read_config`.
        kind: Folder of the shipped ones that are meant; empty: runs.
    """
    layers = read_layers(locate(path, kind), kind)
    return resolve(model, [*layers, *(_override(model, text) for text in overrides)])


def read_layers(path: Path, kind: str = "") -> list[Layer]:
    """The settings of a file and of those it is based on, the lowest first.

    Args:
        path: The file; its `base` is a path relative to it, or the name of a run's configuration that ships.
        kind: As of `read_as`.

    Raises:
        UserError: for a missing or malformed file, or a base that is based on the file itself.
    """
    layers: list[Layer] = []
    chain = [path]
    while True:
        tree = read_tree(chain[-1], kind)
        sections = {key: values for key, values in tree.items() if key != "base"}
        layers.insert(0, Layer(str(chain[-1]), sections))
        if "base" not in tree:
            return layers
        chain.append(base_of(chain[-1], tree["base"]))
        if chain[-1].resolve() in [file.resolve() for file in chain[:-1]]:
            raise UserError(f"{chain[-2]}: base: a loop: {' -> '.join(str(file) for file in chain)}; remove one base")
        kind = ""


def base_of(path: Path, base: Any) -> Path:
    """The file that another one's `base` names.

    Raises:
        UserError: if there is none.
    """
    if not isinstance(base, str) or not base:
        raise UserError(f"{path}: base = {base!r}: expected a path relative to this file, or a name that ships")
    found = locate(base, beside=path.parent)
    if not found.is_file():
        raise UserError(f"{path}: base = {base!r}: {_missing(base)}")
    return found


def read_tree(path: Path, kind: str = "") -> dict[str, Any]:
    """What a YAML file says, by its first keys.

    Raises:
        UserError: for a missing file, one that is not YAML, or YAML that has no sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: {_missing(path, kind)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); give a readable YAML file") from None
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as rollout:, got {type(tree).__name__}")
    return tree


def _missing(name: str | Path, kind: str = "") -> str:
    return (
        f"no such config file, and none that ships is called so; did you mean {nearest_shipped(name, kind)}? "
        "advdmd configs lists them"
    )


def _override(model: type[BaseModel], text: str) -> Layer:
    """One `section.key=value`; the value is read as YAML.

    Raises:
        UserError: if it is not of this form, names no setting, or has no value.
    """
    key, equals, value = text.partition("=")
    key, text = key.strip(), text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    source = f"{text} on the command line"
    if not equals or not key or "" in key.split("."):
        raise UserError(f"override {text!r}: expected section.key=value, such as rollout.actors=4")
    section = section_of(model, key)
    if section is not None:
        raise UserError(
            f"{source}: {key} is a section; override its settings, such as {key}.{next(iter(section.model_fields))}"
        )
    setting = ".".join(key.split(".")[:2])
    if setting not in settings_of(model):
        raise UserError(f"{source}: {unknown(key, model)}")
    if setting != key:
        raise UserError(f"override {text!r}: {setting} is a value, not a section; set it as a whole")
    if not value.strip():
        raise UserError(f"{source}: no value after =; give one, null for none, or \"''\" for empty text")
    try:
        return layer_of(source, {key: parse_yaml(value)})
    except ValueError as error:
        raise UserError(f"override {text!r}: the value is not valid YAML, {error}; quote it") from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; `read_config` of it gives the same `Config`."""
    return yaml_text(config.model_dump(mode="json"))
