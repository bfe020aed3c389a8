"""Whether a file or a folder that a user names can be written, before the work whose outcome it is to hold."""

import os
from pathlib import Path

from advdmd_ray.errors import UserError
from advdmd_ray.runs.folder import check_writable


def check_file(file: Path, option: str) -> None:
    """Make sure that a file can be written, before the work whose outcome it is to hold. It stays as it is.

    Args:
        file: It, or where it is to be.
        option: Which names it, for the error.

    Raises:
        UserError: if it cannot.
    """
    if file.is_dir():
        raise UserError(f"{option} {file}: is a folder; name a file in it")
    if not os.path.lexists(file):
        check_writable(file.parent, f"give another {option}")
        return
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))  # not waiting for who would read of a pipe
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{option} {file}: cannot be written ({reason}); name another file") from None


def check_free(folder: Path) -> None:
    """Make sure that nothing is where a folder is to be exported to, a link to nowhere included.

    Raises:
        UserError: if something is.
    """
    if os.path.lexists(folder):
        raise UserError(f"--out {folder}: exists; give a new folder")
