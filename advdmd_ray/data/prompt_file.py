"""The prompt table."""

import unicodedata
from pathlib import Path

from advdmd_ray.errors import UserError

MAX_CHARACTERS = 1000


def _fault(line: str) -> str | None:
    """Say what is wrong with a line, or None."""
    if not line.strip():
        return "is empty; remove it"
    if any(unicodedata.category(character) == "Cc" for character in line):
        return "has a control character; only printable text is allowed"
    if len(line) > MAX_CHARACTERS:
        return f"has {len(line)} characters; at most {MAX_CHARACTERS} are allowed"
    return None


def load_prompts(path: str | Path) -> tuple[str, ...]:
    r"""Read a prompt file: UTF-8, one prompt a line, lines that start with `#` are comments.

    Prompts keep their order; the position is the prompt id. Spaces around a prompt are removed. Lines end with `\n` or
    `\r\n`; empty lines at the end of the file are ignored.

    Args:
        path: The file.

    Raises:
        UserError: The file is missing, not UTF-8, has no prompt, or has a bad line; file and line are named.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the prompt file ({error.strerror}); give a readable text file") from None
    prompts = []
    for number, encoded in enumerate(raw.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").split(b"\n"), start=1):
        try:
            line = encoded.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number}: is not UTF-8; save the file as UTF-8") from None
        if line.startswith("#"):
            continue
        fault = _fault(line) if raw.strip() else None
        if fault is not None:
            raise UserError(f"{path}, line {number}: {fault}")
        if line.strip():
            prompts.append(line.strip())
    if not prompts:
        raise UserError(f"{path}: has no prompt; write one prompt a line")
    return tuple(prompts)
