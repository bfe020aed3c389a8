"""Whether a file or a folder that a user names can be written, before the work whose outcome it is to hold."""

import os
import tempfile
from pathlib import Path

from advdmd_ray.errors import UserError
from advdmd_ray.runs.lasting import check_not_of_ray


def check_writable(folder: Path, remedy: str = "choose another run.output") -> None:
    """Make sure that a folder can be created and written, by a probe file where its first parent stands.

    Asking for permission bits would not do: they do not bind root, and a read-only file system ignores them.

    Args:
        folder: A run's, or another.
        remedy: What to do if it cannot, for the error.

    Raises:
        UserError: if it cannot, or is a folder of Ray's, which Ray deletes.
    """
    check_not_of_ray(folder, remedy)
    try:
        places = (folder, *folder.absolute().parents)
        standing = next(path for path in places if os.path.lexists(path))  # a link to nowhere is no place either
        if not standing.exists():
            raise UserError(f"folder {folder}: {standing} is a link that leads nowhere; {remedy}")
        if not standing.is_dir():
            raise UserError(f"folder {folder}: {standing} is a file, not a folder; {remedy}")
        with tempfile.TemporaryFile(dir=standing):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"folder {folder} cannot be written: {reason}; {remedy}") from None


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
