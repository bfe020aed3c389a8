"""What all commands share: how a command is described, its exit codes, and errors that are one line."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from advdmd_ray.errors import UserError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Reports what is wrong with the arguments as one line instead of a usage block.

    Raises:
        UserError: where `argparse` would end the process.
    """

    def error(self, message: str) -> NoReturn:  # noqa: D102 - see the class
        raise UserError(f"{message}; see {self.prog} --help")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of `advdmd`.

    Attributes:
        name: Its first word.
        text: What it does, in one sentence.
        add_arguments: Adds its own arguments to its parser.
        run: Does it, and returns the exit code.
    """

    name: str
    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_config(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds `--config` and the overrides that may follow it."""
    command.add_argument(
        "--config", required=required, metavar="FILE|NAME", help="YAML file, or one that ships: see `advdmd configs`"
    )
    command.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that override the file's, in order"
    )


def add_place(command: argparse._ActionsContainer) -> None:
    """Adds `--device` and `--precision`."""
    command.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="auto: a GPU if there is one")
    add_precision(command, "auto: bfloat16 on a GPU, float32 on the CPU")


def add_precision(command: argparse._ActionsContainer, text: str) -> None:
    """Adds `--precision`."""
    command.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help=text)


def positive(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        ArgumentTypeError: for any other.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def not_negative(text: str) -> float:
    """A finite number of at least 0.

    Raises:
        ArgumentTypeError: for any other.
    """
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return value


def write_out(path: Path, text: str) -> None:
    """Writes the file that `--out` names, and its folder.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"--out {path}: cannot be written ({reason}); name another file") from None


def end(line: str, code: int) -> int:
    """Says one line on stderr, and returns the exit code."""
    sys.stderr.write(f"advdmd: {' '.join(line.split())}\n")
    return code
