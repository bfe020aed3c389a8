"""YAML as configurations are written in it, and one line for text that is not.

Scalars are those of YAML 1.2's core schema: 1e-4 is a number, and 2026-11-29, 12:30, on and no are text.
"""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_TAG = "tag:yaml.org,2002:"
_TAB = repr("\t")
_FLOAT = re.compile(
    r"""[-+]?(?: (?: [0-9][0-9_]*\.[0-9_]* | \.[0-9][0-9_]* ) (?: [eE][-+]?[0-9]+ )?
             | [0-9][0-9_]* [eE][-+]?[0-9]+
             | \.(?: inf | Inf | INF ) )
        | \.(?: nan | NaN | NAN )""",
    re.VERBOSE,
)
_SCALARS = (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"<<"), ["<"]),
)


class _Loader(yaml.SafeLoader):
    """Keys are text, and each stands once in its mapping."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own class attribute, filled below

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.deep_construct = True  # so that PyYAML refuses an anchor inside itself

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == f"{_TAG}merge":
                continue
            line = key.start_mark.line + 1
            if key.tag != f"{_TAG}str":
                raise ConstructorError(problem="a key is not text; quote it", problem_mark=key.start_mark)
            if key.value in lines:
                problem = f"key {key.value} stands twice, in lines {lines[key.value]} and {line}; remove one"
                raise ConstructorError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 reads as something else."""


for _name, _pattern, _first in _SCALARS:
    _whole = re.compile(f"(?:{_pattern.pattern})$", _pattern.flags)
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", _whole, _first)
    if _name == "float":
        _Dumper.add_implicit_resolver(f"{_TAG}{_name}", _whole, _first)


def parse_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises:
        ValueError: says where the text is not YAML, has a key twice or a key that is not text.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        said = " ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{where}{said}{'; indent with spaces' if _TAB in said else ''}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        if "integer string conversion" in str(error):  # Python's advice is for its programmers
            raise ValueError("a number has too many digits") from None
        raise ValueError(" ".join(str(error).split())) from None


def yaml_text(tree: Any) -> str:
    """A tree of plain values as YAML that `parse_yaml` reads back as it is."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=100)
