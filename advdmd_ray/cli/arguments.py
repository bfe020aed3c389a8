"""What all commands share: how a command is described, its exit codes, and errors that are one line."""

import argparse
import logging
import math
import signal
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from advdmd_ray.config.texts import path_fault, shown, text_fault
from advdmd_ray.console import END
from advdmd_ray.errors import UserError
from advdmd_ray.files import write_atomically

DONE, FAILED, BAD_INPUT, SIGNALLED = 0, 1, 2, 128
INTERRUPTED = SIGNALLED + signal.SIGINT
"""Of a process that a signal ended, as a shell counts: 128 and its number, such as 130 for Ctrl-C."""


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
        long: Whether it takes minutes, or hours: then it says how far it is, in a form that can be chosen.
    """

    name: str
    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    long: bool = False


def add_config(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds `--config` and the overrides that may follow it."""
    command.add_argument(
        "--config",
        required=required,
        type=PATH,
        metavar="FILE|NAME",
        help="YAML file, or one that ships: see `advdmd configs`",
    )
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="settings that override the file's, in order",
    )


def add_place(command: argparse._ActionsContainer) -> None:
    """Adds `--device` and `--precision`."""
    command.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="auto: a GPU if there is one")
    add_precision(command, "auto: bfloat16 on a GPU, float32 on the CPU")


def add_precision(command: argparse._ActionsContainer, text: str) -> None:
    """Adds `--precision`."""
    command.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help=text)


def whole(least: int, most: int) -> Callable[[str], int]:
    """A kind of argument: a whole number within bounds, both included; any other raises ArgumentTypeError."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # no number, or one of thousands of digits
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {shown(text)}")
        return value

    return parse


def number(least: float, most: float) -> Callable[[str], float]:
    """A kind of argument: a number within bounds, both included; any other raises ArgumentTypeError."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a number from {least:g} to {most:g}, got {shown(text)}")
        return value

    return parse


def words(text: str) -> str:
    """Text that says something; any other raises ArgumentTypeError."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected some words, got an empty text")
    if (fault := text_fault(text, allowed="\n\t")) is not None:
        raise argparse.ArgumentTypeError(fault)
    return text


def _path(text: str) -> str:
    """A path, or the name of something that ships; any that can be neither raises ArgumentTypeError."""
    if (fault := path_fault(text)) is not None:
        raise argparse.ArgumentTypeError(fault)
    return text


# Far beyond use, so that a slip of the finger is told at once and does not fill memory for hours.
COUNT = whole(1, 10_000)
STEPS = whole(1, 1000)
SEED = whole(0, 2**63 - 1)
PIXELS = whole(8, 8192)
PATH = _path
GUIDANCE = number(1, 20)


def write_out(path: Path, text: str) -> None:
    """Writes the file that `--out` names, whole or not at all, and its folder.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            path.write_text(text, encoding="utf-8")
        else:
            write_atomically(path, text.encode())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"--out {path}: cannot be written ({reason}); name another file") from None


def end(line: str, code: int) -> int:
    """Says one line on stderr, nothing in which a terminal obeys, and returns the exit code."""
    plain = "".join(
        f"\\x{ord(character):02x}" if unicodedata.category(character) in {"Cc", "Cs"} else character
        for character in " ".join(line.split())
    )
    END.log(logging.ERROR if code in {FAILED, BAD_INPUT} else logging.WARNING, "%s", plain)
    return code
