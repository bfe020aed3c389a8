"""The prompt table."""

import unicodedata
from pathlib import Path

from advdmd_ray.errors import UserError
from advdmd_ray.reading import NotTextError, decoded, is_blank, text_fault, text_lines

MAX_CHARACTERS = 1000


def _fault(line: str) -> str | None:
    """Say what is wrong with a line, or None."""
    if is_blank(line):
        return "is empty; remove it"
    if any(unicodedata.category(character) == "Cc" for character in line):
        return "has a control character; only printable text is allowed"
    if (fault := text_fault(line)) is not None:
        return f"{fault}; only printable text is allowed"
    if len(line) > MAX_CHARACTERS:
        return f"has {len(line)} characters; at most {MAX_CHARACTERS} are allowed"
    return None


def load_prompts(path: str | Path) -> tuple[str, ...]:
    r"""Read a prompt file: UTF-8, or what its byte order mark says, one prompt a line; `#` begins a comment.

    Prompts keep their order; the position is the prompt id. Spaces around a prompt are removed. Lines end with `\n` or
    `\r\n`; empty lines at the end of the file are ignored.

    Args:
        path: The file.

    Raises:
        UserError: The file is missing, in another encoding, has no prompt, or has a bad line; file and line are named.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the prompt file ({error.strerror}); give a readable text file") from None
    prompts = []
    for number, line in enumerate(_lines(path, raw), start=1):
        if line.startswith("#"):
            continue
        if (fault := _fault(line)) is not None:
            raise UserError(f"{path}, line {number}: {fault}")
        prompts.append(line.strip())
    if not prompts:
        raise UserError(f"{path}: has no prompt; write one prompt a line")
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
