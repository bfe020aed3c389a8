"""Settings from several places, one over the other, and the one line that blames the place of a wrong one."""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from advdmd_ray.config.named import nearest
from advdmd_ray.errors import UserError

Model = TypeVar("Model", bound=BaseModel)

_ELSEWHERE = {
    "base": "base stands in a file, before its sections; name the file itself by --config",
    "pretrain": "pretrain is read by `advdmd pretrain` alone, from a file like `advdmd configs pretrain/digits`; "
    "remove it here",
    "twinflow": "twinflow stands under `settings:` of a comparison's rival; remove it here",
    "weights": "weights has no settings any more; remove it",
}
"""Keys that a person, or the `config.yaml` of an old run, may have in a run's configuration, and where they belong."""

_GONE = {
    "discriminator.auc_low": "discriminator.auc_low is no setting any more: whether a level tells right from wrong "
    "texts opens it; remove it, or set discriminator.text_errors, of which null asks for no such evidence",
}
"""Settings that were, and what has taken their place."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlevel = 2
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one place.

    Attributes:
        source: The place, as an error's line begins with it: a file's path, or an override.
        tree: The settings by section.
    """

    source: str
    tree: Mapping[str, Any]


def layer_of(source: str, overrides: Mapping[str, Any]) -> Layer:
    """A layer of `section.key: value` settings.

    Raises:
        UserError: if a key is not of this form.
    """
    tree: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        section, _, name = key.strip().partition(".")
        if not section or not name or "." in name:
            raise UserError(f"{source}: {key!r}: expected section.key, such as rollout.actors")
        tree.setdefault(section, {})[name] = value
    return Layer(source, tree)


def resolve(model: type[Model], layers: Sequence[Layer]) -> Model:
    """The layers as one `model`; a later layer's settings are put over those of the earlier ones.

    Args:
        model: `Config`, or the model of another kind of file.
        layers: From the lowest to the uppermost; at least one.

    Raises:
        UserError: for an unknown key (the nearest valid one is named), a wrong type, a value out of range, or
            sections that contradict each other. One line each, which begins with the source to blame.
    """
    tree: dict[str, Any] = {}
    for layer in layers:
        for key, values in layer.tree.items():
            section = section_of(model, key)
            if section is None:
                tree[key] = values
            else:
                tree[key] = tree.get(key, {}) | _settings(layer.source, key, values, section)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problem = _first(error)
        layer = _blamed(problem, model, layers)
        raise UserError(f"{layer.source}: {_elsewhere(problem, model, layer) or _said(problem, model)}") from None


def _first(error: ValidationError) -> ErrorDetails:
    """The first problem; where a value fits no member of a union, the one of the member that it comes nearest to."""
    problems = error.errors()
    same_setting = [problem for problem in problems if problem["loc"][:2] == problems[0]["loc"][:2]]
    return max(same_setting, key=lambda problem: len(problem["loc"]))


def section_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section that a field holds; None for a field that holds a value, and for no field."""
    field = model.model_fields.get(name)
    kind = None if field is None else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def settings_of(model: type[BaseModel]) -> list[str]:
    """`section.key` of every setting."""
    sections = ((name, section_of(model, name)) for name in model.model_fields)
    return [f"{name}.{key}" for name, section in sections if section is not None for key in section.model_fields]


def unknown(key: str, model: type[BaseModel]) -> str:
    """What to say of a `section`, or `section.key`, that the model does not have."""
    section, dot, name = key.partition(".")
    if said := _GONE.get(key, _ELSEWHERE.get(section)):
        return said
    if not model.model_fields:
        return f"unknown key {key}; no settings are taken here, remove it"
    settings = settings_of(model)
    homes = [setting for setting in settings if setting.endswith(f".{name or section}")]
    if not dot:
        near = " or ".join(homes) or nearest(key, list(model.model_fields))
    else:
        beside = [setting for setting in settings if setting.startswith(f"{section}.")]
        near = nearest(key, homes or beside or settings)
    return f"unknown key {key}; did you mean {near}?"


def _settings(source: str, key: str, values: Any, section: type[BaseModel]) -> dict[str, Any]:
    """The settings that a layer has for a section; a section without any may be empty."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        example = next(iter(section.model_fields))
        raise UserError(
            f"{source}: {key} is a section, got {_SHORT.repr(values)}; give its settings, such as {key}.{example}"
        )
    return values


def _blamed(problem: ErrorDetails, model: type[BaseModel], layers: Sequence[Layer]) -> Layer:
    """The uppermost layer that has one of the settings in question."""
    settings = list(_in_question(problem, model))
    for layer in reversed(layers):
        if any(key in layer.tree and (not name or name in (layer.tree[key] or {})) for key, name in settings):
            return layer
    return layers[0]


def _in_question(problem: ErrorDetails, model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Section and name of the settings that a problem is about: the one at its place, or those its text names."""
    location = [str(part) for part in problem["loc"]]
    section = section_of(model, location[0]) if location else None
    if section is None and location:
        yield location[0], ""
    elif section is not None and len(location) > 1:
        yield location[0], location[1]
    else:
        yield from re.findall(r"([a-z_]+)\.([a-z_]+)", problem["msg"])
        if section is not None:
            yield from ((location[0], name) for name in re.findall(r"[a-z_]+", problem["msg"]))


def _said(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """A problem as text: what came, what is allowed, what to do."""
    key, fields = _place(problem["loc"], model)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        parent, dot, name = key.rpartition(".")
        if dot and section_of(model, parent) is None:
            return f"unknown key {key}; did you mean {parent}.{nearest(name, fields)}?"
        return unknown(key, model)
    if problem["type"] == "missing":
        return f"{key} is missing"
    if not key:
        return message
    if problem["type"] == "value_error":
        return f"{key}: {message}"
    hint = {
        "tuple_type": "; write a list, such as [1.0, 0.5]",
        "string_type": "" if problem["input"] is None else "; put text in quotes",
    }.get(problem["type"], "")
    return f"{key} = {_SHORT.repr(problem['input'])}: {message[0].lower()}{message[1:]}{hint}"


def _elsewhere(problem: ErrorDetails, model: type[BaseModel], layer: Layer) -> str:
    """Where a layer's keys belong that belong elsewhere, all at once; empty if the problem is another."""
    keys = [key for key in layer.tree if key in _ELSEWHERE and key not in model.model_fields]
    unwanted = problem["type"] == "extra_forbidden" and problem["loc"][0] in keys
    return "; ".join(_ELSEWHERE[key] for key in keys) if unwanted else ""


def _place(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, list[str]]:
    """Dotted key of a place, and the fields beside it; what pydantic adds for the members of a union is left out."""
    shown: list[str] = []
    section: type[BaseModel] | None = model
    fields = list(model.model_fields)
    for part in location:
        if isinstance(part, int):
            shown.append(str(part))
        elif section is not None:
            shown.append(part)
            fields = list(section.model_fields)
            section = _inner(section, part)
    return ".".join(shown), fields


def _inner(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model that a field holds, by itself or in a list."""
    if name not in section.model_fields:
        return None
    annotation = section.model_fields[name].annotation
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
