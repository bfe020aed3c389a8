"""Files and folders that are there whole or not at all: written beside their place and renamed into it."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def drafted_file(path: Path) -> Iterator[Path]:
    """Where to write what is to become `path`, whose folder exists; the draft is gone if it does not come to that.

    A file that is there already is replaced at once: a reader sees the old one or the new one, never a part.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def drafted_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that is to become `folder`, readable by everyone, and is gone if it does not come to that.

    Args:
        folder: Must not exist; its parents are made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # not there if it was renamed
