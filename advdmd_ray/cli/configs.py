"""`advdmd configs`: the configurations that ship."""

import argparse
import json
import sys
from pathlib import Path

from advdmd_ray.cli.arguments import DONE, PATH, Command
from advdmd_ray.config.named import nearest
from advdmd_ray.config.schema import json_schema
from advdmd_ray.config.shipped import shipped_names, shipped_path, shipped_text
from advdmd_ray.errors import UserError

_COMMANDS = {"": "advdmd run --config", "compare": "advdmd compare", "pretrain": "advdmd pretrain --config"}
"""What reads the files of each folder."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd configs`."""
    command.add_argument("name", nargs="?", metavar="NAME", help="print this one, such as digits or compare/shapes")
    command.add_argument("--out", type=PATH, metavar="FILE", help="write it there instead; must not exist")
    command.add_argument("--copy", type=PATH, metavar="DIR", help="write all of them there; none of them may exist")
    command.add_argument("--schema", action="store_true", help="print the JSON Schema of a run's file, for editors")


def run_command(args: argparse.Namespace) -> int:
    """Lists, prints or copies."""
    if sum((args.name is not None, args.copy is not None, args.schema)) > 1:
        raise UserError("configs takes one of NAME, --copy and --schema")
    if args.out is not None and args.name is None:
        raise UserError("--out needs the NAME of what to write; --copy DIR writes all")
    if args.schema:
        sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
    elif args.copy is not None:
        folder = Path(args.copy)
        _write({folder / f"{name}.yaml": shipped_path(name).read_text(encoding="utf-8") for name in shipped_names()})
        sys.stdout.write(f"{folder}\n")
    elif args.name is None:
        sys.stdout.write(_listed())
    elif args.name not in shipped_names():
        near = nearest(args.name, shipped_names())
        raise UserError(f"{args.name}: no config that ships; did you mean {near}? advdmd configs lists them")
    elif args.out is None:
        sys.stdout.write(shipped_text(args.name))
    else:
        _write({Path(args.out): shipped_text(args.name)})
        sys.stdout.write(f"{args.out}\n")
    return DONE


def _listed() -> str:
    """Every name with its file's first line, by the command that reads it."""
    lines: list[str] = []
    for kind, command in _COMMANDS.items():
        names = [name for name in shipped_names() if name.rpartition("/")[0] == kind]
        lines += [f"{command} NAME", *(f"  {name:<24}{_first_line(name)}" for name in names), ""]
    return "\n".join(lines)


def _first_line(name: str) -> str:
    with shipped_path(name).open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


def _write(texts: dict[Path, str]) -> None:
    """Writes new files, all or, if one of them exists, none.

    Raises:
        UserError: for a file that exists, or a place that cannot be written.
    """
    try:
        for path in texts:
            if path.exists():
                raise UserError(f"{path} exists; nothing was written: name another place")
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written ({error.strerror}); name another place") from None


COMMAND = Command(
    "configs",
    "List, print and copy the configurations that ship, or print their JSON Schema.",
    add_arguments,
    run_command,
)
