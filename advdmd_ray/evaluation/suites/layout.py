"""What each benchmark asks for, and where its scorer looks for it.

GenEval (arXiv 2310.11513, djghosh13/geneval): `OUT/00000/metadata.jsonl` is a line of its metadata file, and
`OUT/00000/samples/0000.png` and so on are the images. DPG-Bench (arXiv 2403.05135, TencentQQGYLab/ELLA): `OUT/NAME.png`
is a grid of two rows of two images for each `NAME.txt`, and its scorer takes every file in OUT for one, so nothing else
is written there: settings and drafts are beside OUT.
"""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from advdmd_ray.errors import UserError
from advdmd_ray.files import read_whole, write_atomically
from advdmd_ray.reading import NotTextError, decoded, foreign_part, is_blank, text_fault, text_lines

SuiteName = Literal["geneval", "dpg"]
GRID_SIDE = 2
"""Rows and columns of DPG-Bench's grid."""


@dataclass(frozen=True, slots=True)
class SuitePrompt:
    """One prompt of a benchmark.

    Attributes:
        index: Its place in the benchmark; names its seeds.
        name: Its name in the layout.
        text: The prompt.
        line: Its line of GenEval's metadata file; empty for DPG-Bench.
    """

    index: int
    name: str
    text: str
    line: str = ""


class Suite(Protocol):
    """A benchmark's prompts and layout.

    Attributes:
        name: Of the benchmark.
        prompts: In its order.
        images: Images of a prompt.
        left_out: Files beside the prompts that are none.
    """

    name: SuiteName
    prompts: tuple[SuitePrompt, ...]
    images: int
    left_out: tuple[str, ...]

    def done(self, out: Path, prompt: SuitePrompt) -> bool:
        """Whether all of a prompt's files are there."""
        ...

    def write(self, out: Path, prompt: SuitePrompt, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        """Write a prompt's files, each as a whole."""
        ...


class GenEval:
    """See the module.

    Args:
        metadata: `evaluation_metadata.jsonl`.
        images: Images of a prompt; the scorer counts each by itself.

    Raises:
        UserError: the file cannot be read, or a line of it is not GenEval's.
    """

    name: SuiteName = "geneval"
    left_out = ()

    def __init__(self, metadata: Path, images: int) -> None:
        lines = text_lines(_text(metadata, "--metadata"))
        while lines and not lines[-1].strip():
            lines.pop()
        prompts = []
        for index, line in enumerate(lines):
            place = f"--metadata {metadata}, line {index + 1}"
            try:
                entry = json.loads(line)
                text, tag = entry["prompt"], entry["tag"]
            except (ValueError, KeyError, TypeError, RecursionError):
                text = tag = None
            if not isinstance(text, str) or not isinstance(tag, str) or is_blank(text):
                raise UserError(
                    f"{place}: expected GenEval's JSON object with a prompt and a tag, which its scorer reads; give "
                    "its evaluation_metadata.jsonl"
                )
            if (fault := text_fault(text)) is not None:
                raise UserError(f"{place}: the prompt {fault}; correct it")
            prompts.append(SuitePrompt(index, f"{index:05d}", text, line))
        if not prompts:
            raise UserError(f"--metadata {metadata}: has no line; give GenEval's evaluation_metadata.jsonl")
        self.prompts, self.images = tuple(prompts), images

    def _files(self, out: Path, prompt: SuitePrompt) -> list[Path]:
        return [out / prompt.name / "samples" / f"{number:04d}.png" for number in range(self.images)]

    def done(self, out: Path, prompt: SuitePrompt) -> bool:
        """See `Suite`."""
        told = out / prompt.name / "metadata.jsonl"
        return told.is_file() and all(file.is_file() for file in self._files(out, prompt))

    def write(self, out: Path, prompt: SuitePrompt, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        """See `Suite`."""
        (out / prompt.name / "samples").mkdir(parents=True, exist_ok=True)
        for file, image in zip(self._files(out, prompt), images, strict=True):
            _write_png(out, file, image)
        write_atomically(out / prompt.name / "metadata.jsonl", (prompt.line + "\n").encode())


class DpgBench:
    """See the module.

    Args:
        prompts: Folder of `NAME.txt` files.

    Raises:
        UserError: the folder cannot be read or has no prompt.
    """

    name: SuiteName = "dpg"
    images = GRID_SIDE * GRID_SIDE

    def __init__(self, prompts: Path) -> None:
        inside = sorted(prompts.iterdir()) if prompts.is_dir() else []
        files = [file for file in inside if file.suffix.lower() == ".txt" and foreign_part(file.name) is None]
        self.left_out = tuple(file.name for file in inside if file not in files)
        if not files:
            raise UserError(f"--prompts {prompts}: holds no .txt file; give DPG-Bench's folder of prompts")
        made: dict[str, SuitePrompt] = {}
        for index, file in enumerate(files):
            text = " ".join(_text(file, "--prompts").split())
            if (fault := text_fault(text)) is not None:
                raise UserError(f"--prompts {prompts}: {file.name} {fault}; give DPG-Bench's folder of prompts")
            if file.stem in made:
                raise UserError(f"--prompts {prompts}: {file.name} names a prompt that is there already; rename it")
            made[file.stem] = SuitePrompt(index, file.stem, text)
        self.prompts = tuple(made.values())

    def done(self, out: Path, prompt: SuitePrompt) -> bool:
        """See `Suite`."""
        return (out / f"{prompt.name}.png").is_file()

    def write(self, out: Path, prompt: SuitePrompt, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        """See `Suite`: row by row."""
        out.mkdir(parents=True, exist_ok=True)
        rows = [np.concatenate(images[start : start + GRID_SIDE], axis=1) for start in range(0, self.images, GRID_SIDE)]
        _write_png(out, out / f"{prompt.name}.png", np.concatenate(rows, axis=0))


def missing(suite: Suite, out: Path) -> list[SuitePrompt]:
    """The prompts that have no images yet, in the benchmark's order."""
    return [prompt for prompt in suite.prompts if not suite.done(out, prompt)]


def claim_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write what the images hang on beside OUT, where it does not stand yet."""
    path = _settings_file(out)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(settings, indent=1) + "\n").encode())


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Compare what the images are to hang on with what stands beside OUT, if anything does.

    Raises:
        UserError: OUT has images of other settings, or of unknown ones; names the first that differs.
    """
    path = _settings_file(out)
    if not path.exists():
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"--out {out}: is not empty, and {path.name} is not beside it; give an empty folder")
        return
    try:
        stood = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        stood = None
    if not isinstance(stood, dict):
        raise UserError(f"{path}: cannot be read as a JSON object; put it back, or give another --out")
    for key in sorted({*stood, *settings}):
        if stood.get(key) != settings.get(key):
            raise UserError(
                f"--out {out}: holds images with {key} {stood.get(key)!r}, asked for is {settings.get(key)!r}; give "
                "another folder, or the same settings"
            )


def _settings_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.settings.json")


def _text(file: Path, option: str) -> str:
    try:
        return decoded(read_whole(file))
    except NotTextError as error:
        raise UserError(f"{option} {file}: {error}") from None
    except OSError as error:
        raise UserError(f"{option} {file}: cannot be read ({error.strerror}); give a UTF-8 text file") from None


def _write_png(out: Path, file: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    drafts = out.with_name(f"{out.name}.drafts")
    drafts.mkdir(parents=True, exist_ok=True)
    draft = drafts / f"{uuid.uuid4().hex}.png"  # a prompt's own name may be as long as names can be
    Image.fromarray(image).save(draft, format="PNG")
    draft.replace(file)


def remove_drafts(out: Path) -> None:
    """Remove what a benchmark leaves beside OUT, but for the settings."""
    drafts = out.with_name(f"{out.name}.drafts")
    if drafts.is_dir():
        for draft in drafts.iterdir():
            draft.unlink()
        drafts.rmdir()
