"""Where a benchmark that leaves several files puts them."""

from datetime import UTC, datetime
from pathlib import Path

from advdmd_ray.errors import UserError


def new_folder(out: Path | None, kind: str) -> Path:
    """The absolute path of `--out`, or of a folder in runs/bench that is named by its kind and the time.

    Raises:
        UserError: if it is there.
    """
    folder = out or Path("runs") / "bench" / f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    if folder.exists():
        raise UserError(f"--out {folder} exists; name another folder")
    return folder.absolute()
