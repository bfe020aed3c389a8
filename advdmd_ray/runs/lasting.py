"""Whether what a run writes lasts: not in a folder that Ray deletes, and where every process that writes sees it."""

import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from advdmd_ray.config import Config, Resume
from advdmd_ray.errors import UserError
from advdmd_ray.files import missing_folders, remove_empty

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the driver of a submitted job."""
LATENTS = "run.output, or data.cache,"
"""What names the folder of latents."""
_SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_\d+")
"""Name of the folder of a Ray that runs, which has the working directories of its jobs."""
SEEN_S, LOOK_AGAIN_S = 5.0, 0.2
"""A network file system may show a file a moment after it was written."""


def check_places(config: Config) -> None:
    """Make sure that a submitted job says where it writes: it runs in a folder that Ray deletes.

    Raises:
        UserError: naming the first place that hangs on the working directory.
    """
    if SUBMITTED not in os.environ:
        return
    for section, name in Config.settings(Resume.PLACE):
        place = getattr(getattr(config, section), name)
        if place is not None and not Path(place).expanduser().is_absolute():
            raise UserError(
                f"{section}.{name}={place} is relative, and a submitted job runs in a folder that Ray deletes; set it "
                "to an absolute path on a file system that all nodes share"
            )


def check_not_of_ray(folder: Path, remedy: str) -> None:
    """Make sure that a folder is not Ray's own, which it deletes with a job or with its session.

    Args:
        folder: Where something is to be written.
        remedy: What to do if it is, for the error.

    Raises:
        UserError: if it is.
    """
    whole = folder.absolute()
    # Path.resolve raises RuntimeError for links in a circle, which are told by whoever looks there.
    if any(_SESSION.fullmatch(part) for part in (*whole.parts, *Path(os.path.realpath(whole)).parts)):
        raise UserError(f"folder {whole} is in one of Ray's own, which Ray deletes; {remedy}")


@dataclass(frozen=True, slots=True)
class Mark:
    """What a process on any node reads where it sees a folder, and nowhere else.

    Attributes:
        file: A file in the folder, an absolute path.
        text: What it says; of any two folders, or starts of a run, no two say the same.
        setting: Which names the folder.
    """

    file: Path
    text: str
    setting: str

    def check_seen(self, who: str, within_s: float = SEEN_S) -> None:
        """Make sure that this process sees the folder.

        Args:
            who: Who is to write there, for the error.
            within_s: Seconds to look again.

        Raises:
            UserError: naming this node and the folder, if it does not.
        """
        end = time.monotonic() + within_s
        while (why := self._unseen()) is not None:
            if time.monotonic() >= end:
                raise UserError(
                    f"{who} on node {socket.gethostname()} does not see {self.file.parent} of node "
                    f"{self.text.partition(' ')[0]} ({why}); set {self.setting} to a folder on a file system that all "
                    "nodes share"
                )
            time.sleep(LOOK_AGAIN_S)

    def _unseen(self) -> str | None:
        """Why this process does not see the folder; None if it does."""
        try:
            found = self.file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            found = ""
        except OSError as error:
            return f"{self.file.name}: {(error.strerror or str(error)).lower()}"
        return None if found == self.text else f"another {self.file.name} is there"


def mark_text() -> str:
    """What no other process or start writes: this node, this process and a number drawn for it."""
    return f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}\n"


@contextmanager
def marked(folder: Path, setting: str) -> Iterator[Mark]:
    """Makes a folder that workers are to write into, and marks it as long as they might ask.

    Args:
        folder: The folder; one that is empty at the end is gone, with those that it took.
        setting: Which names it.
    """
    made = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark = Mark(folder.absolute() / f".mark-{uuid.uuid4().hex}", mark_text(), setting)
    mark.file.write_text(mark.text, encoding="utf-8")
    try:
        yield mark
    finally:
        mark.file.unlink(missing_ok=True)
        remove_empty(made)
