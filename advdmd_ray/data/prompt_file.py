"""The prompt table."""

import json
import unicodedata
from pathlib import Path

from advdmd_ray.errors import UserError
from advdmd_ray.files import read_whole
from advdmd_ray.reading import NotTextError, decoded, is_blank, text_fault, text_lines

MAX_CHARACTERS = 1000
TABLES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".yaml", ".yml", ".rtf", ".html", ".xml"})
"""Files whose lines are no prompts, whatever is in them."""
HOW = "write one prompt a line"


def _fault(line: str) -> str | None:
    """Say what is wrong with a line, or None."""
    if is_blank(line):
        return "is empty; remove it"
    if _is_json(line):
        return "is a JSON object or list; only plain text is allowed"
    if any(unicodedata.category(character) == "Cc" for character in line):
        return "has a control character; only printable text is allowed"
    if (fault := text_fault(line)) is not None:
        return f"{fault}; only printable text is allowed"
    if len(line) > MAX_CHARACTERS:
        return f"has {len(line)} characters; at most {MAX_CHARACTERS} are allowed"
    return None


def _is_json(line: str) -> bool:
    if not line.strip().startswith(("{", "[")):
        return False
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def load_prompts(path: str | Path) -> tuple[str, ...]:
    r"""Read a prompt file: UTF-8, or what its byte order mark says, one prompt a line; `#` begins a comment.

    Prompts keep their order; the position is the prompt id. Spaces around a prompt are removed. Lines end with `\n` or
    `\r\n`; empty lines at the end of the file are ignored.

    Args:
        path: The file.

    Raises:
        UserError: The file is missing, in another encoding, a table, has no prompt, or has a bad line; both are named.
    """
    path = Path(path)
    try:
        raw = read_whole(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read the prompt file ({error.strerror}); give a readable text file") from None
    if path.suffix.lower() in TABLES:
        raise UserError(f"{path}: is a table or an object by its name, and no plain text; {HOW}")
    prompts = []
    for number, line in enumerate(_lines(path, raw), start=1):
        if line.startswith("#"):
            continue
        if (fault := _fault(line)) is not None:
            raise UserError(f"{path}, line {number}: {fault}")
        prompts.append(line.removeprefix("\ufeff").strip())  # a mark of a file that others were put before
    if not prompts:
        raise UserError(f"{path}: has no prompt; {HOW}")
    return tuple(prompts)


def _lines(path: Path, raw: bytes) -> list[str]:
    """All lines, without those at the end that nobody sees."""
    try:
        text = decoded(raw)
    except NotTextError as error:
        line = raw.count(b"\n", 0, error.place) + 1
        raise UserError(f"{path}, line {line}: {error}") from None
    lines = text_lines(text)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
