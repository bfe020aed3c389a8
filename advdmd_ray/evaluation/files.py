"""Files that are there whole or not at all."""

import os
from pathlib import Path

from advdmd_ray.drafts import drafted_file


def write_atomically(path: Path, data: bytes) -> Path:
    """Writes `data` to `path` through a temporary file of the same folder and a rename.

    The folder is made if it is missing. A reader sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted_file(path) as draft:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o644)  # a report is meant to be read
    return path
