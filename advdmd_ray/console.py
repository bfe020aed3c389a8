"""What a command says on stderr: lines and live displays for a person, or one JSON object a line for a machine.

Every line is a record of `logging`. Three loggers speak to whoever started the command, and have a handler of their
own: `PROGRESS` says how far it is, `SUMMARY` what came of it, `END` why it ended otherwise. The records of all others,
from warnings on, are a developer's, and a command adds the handler for them. rich is imported by what draws.
"""

import io
import json
import logging
import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from rich.console import Console

Form = Literal["text", "json"]

PROGRESS, SUMMARY, END = (logging.getLogger(name) for name in ("advdmd_ray.progress", "advdmd_ray.summary", "advdmd"))
RAW = "stderr"
"""The logger of what others write to stderr while that is to have JSON only."""
FIELDS = "fields"
"""The attribute of a record that has its figures by name."""
_DETAILS = "%(levelname)s %(name)s: %(message)s"
_STYLES = {
    PROGRESS.name: "%(message)s",
    SUMMARY.name: "%(message)s",
    END.name: "advdmd: %(message)s",
    RAW: "%(message)s",
}


class TextFormatter(logging.Formatter):
    """Lines for a person: those of a developer say their level and logger, the others only what there is to say."""

    def __init__(self) -> None:
        super().__init__(_DETAILS)
        self._of = {name: logging.Formatter(style) for name, style in _STYLES.items()}

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines."""
        own = self._of.get(record.name)
        return super().format(record) if own is None else own.format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object: time (UTC), level, logger, message, the record's figures, and the traceback if it has one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= record.__dict__.get(FIELDS, {})
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(_finite(told), allow_nan=False)


def _finite(value: Any) -> Any:
    """The same without numbers that JSON has not: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return value


class _ToStderr(logging.Handler):
    """Writes to what stderr is at the moment, as a live display puts itself in its place; or to one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self.fixed: TextIO | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record, at once. Nobody's work ends because a line of it cannot be written any more."""
        stream = sys.stderr if self.fixed is None else self.fixed
        with suppress(OSError, ValueError):  # the latter of a stream that is closed
            stream.write(self.format(record) + "\n")
            stream.flush()


_HANDLER = _ToStderr()
for _logger in (PROGRESS, SUMMARY, END):
    _logger.addHandler(_HANDLER)
    _logger.setLevel(logging.INFO)
    _logger.propagate = False


def say(line: str, **figures: object) -> None:
    """Says one line of how far the work is, at once.

    Args:
        line: For a person.
        figures: The same for a machine, by name.
    """
    PROGRESS.info("%s", line, extra={FIELDS: figures})


def warn(line: str, **figures: object) -> None:
    """Says one line that whoever wants quiet is to read too, at once; for the arguments see `say`."""
    PROGRESS.warning("%s", line, extra={FIELDS: figures})


def sum_up(lines: Sequence[str], **figures: object) -> None:
    """Says what came of the work: the last thing that a command says, also if it is to be quiet.

    Args:
        lines: For a person.
        figures: The same for a machine, by name.
    """
    SUMMARY.info("%s", "\n".join(lines), extra={FIELDS: figures})


def drawing() -> "Console | None":
    """The terminal for bars and panels, the same one for all of them; None if there is none, or lines are asked for."""
    if not (PROGRESS.isEnabledFor(logging.INFO) and isinstance(_HANDLER.formatter, TextFormatter)):
        return None
    return console if (console := _console()).is_terminal else None


@cache
def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415 - not for --help

    return Console(stderr=True)


@contextmanager
def logging_to_stderr(*, form: Form = "text", quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """How a command says things.

    Args:
        form: Lines, or one JSON object a line; then also for whatever else is written to `sys.stderr`, as warnings.
        quiet: Only warnings, errors and the summary.
        verbose: The package's details too.
    """
    package, before = logging.getLogger("advdmd_ray"), (_HANDLER.formatter, PROGRESS.level)
    with ExitStack() as restored:
        restored.callback(_HANDLER.setFormatter, before[0])
        restored.callback(PROGRESS.setLevel, before[1])
        restored.callback(package.setLevel, package.level)
        restored.callback(logging.root.removeHandler, _HANDLER)
        PROGRESS.setLevel(logging.WARNING if quiet else logging.INFO)
        logging.root.addHandler(_HANDLER)
        if verbose:
            package.setLevel(logging.DEBUG)
        if form == "json":
            restored.enter_context(_all_json())
        yield


@contextmanager
def _all_json() -> Iterator[None]:
    _HANDLER.setFormatter(JsonFormatter())
    _HANDLER.fixed = sys.stderr
    raw = _RawLines(sys.stderr)
    logging.captureWarnings(capture=True)
    try:
        with redirect_stderr(raw):
            yield
    finally:
        raw.end()
        logging.captureWarnings(capture=False)
        _HANDLER.fixed = None


class _RawLines(io.TextIOBase):
    """Stands for stderr, and makes records of the lines that are written there.

    Args:
        stream: What it stands for: code that asks for its file gets it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._threads = stream, threading.local()

    def write(self, text: str) -> int:
        """Tells the lines that are whole now; a thread's lines are its own."""
        *whole, rest = (self._threads.__dict__.get("rest", "") + text).split("\n")
        self._threads.rest = rest
        for line in filter(str.strip, whole):
            logging.getLogger(RAW).warning("%s", line)
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """Of the file that it stands for."""
        return self._stream.fileno()

    def end(self) -> None:
        """Tells what this thread has begun and not ended."""
        if self._threads.__dict__.get("rest", ""):
            self.write("\n")
