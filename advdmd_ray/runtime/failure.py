"""A worker's unexpected error: the traceback is for the developer, one line for the user."""

import re

from advdmd_ray.errors import WorkerFailedError
from advdmd_ray.files import write_atomically
from advdmd_ray.runs.folder import RunFolder

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def worker_failed(folder: RunFolder, cause: BaseException, traceback: str) -> WorkerFailedError:
    """Keeps the traceback in the run folder, and says where it is, or why it could not be kept."""
    try:
        where = f"see {write_atomically(folder.failure, (_COLOUR.sub('', traceback) + chr(10)).encode())}"
    except OSError as refused:
        where = f"its traceback could not be written to {folder.failure}: {_line(refused)}"
    return WorkerFailedError(f"{type(cause).__name__}: {_line(cause)}; {where}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
