"""Weights & Biases, whose own settings say where a run goes: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and others."""

import io
import os
import secrets
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from advdmd_ray.errors import UserError
from advdmd_ray.files import write_atomically
from advdmd_ray.metrics.sinks.point import Point, histogram

PROJECT = "advdmd-ray"
"""Unless WANDB_PROJECT names another."""


class WandbSink:
    """One run of W&B, which a resumed run goes on with: its id is kept in the folder.

    Online, W&B takes no step again that it has: cycles that are made again stay as they first were. Offline it cannot
    know what it has, so each opening writes a folder of its own with the whole run, and the newest is the one to sync.

    Args:
        folder: `wandb` in the run folder; W&B keeps its files there.
        name: Of the run.
        facts: What the run is made of, as JSON has it.
    """

    def __init__(self, folder: Path, name: str, facts: Mapping[str, Any]) -> None:
        self._wandb: Any = import_module("wandb")
        kept = folder / "run-id"
        if not kept.exists():
            write_atomically(kept, secrets.token_hex(4).encode())
        self._run: Any = self._wandb.init(
            id=kept.read_text(encoding="utf-8"),
            resume="allow",
            name=name,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(folder.parent),
            config=dict(facts),
            # The process has other things to say than W&B, on a terminal that shows the run.
            settings=self._wandb.Settings(console="off", silent=True),
        )
        self.first: int = self._run.step

    def write(self, point: Point) -> None:
        """See `Sink`."""
        shown: dict[str, Any] = dict(point.scalars)
        for tag, observations in point.observations.items():
            shown[tag] = self._wandb.Histogram(np_histogram=histogram(observations))
        for tag, data in point.pictures.items():
            picture = Image.open(io.BytesIO(data))
            shown[tag] = self._wandb.Image(picture, file_type="jpg" if picture.format == "JPEG" else "png")
        self._run.log(shown, step=point.cycle, commit=True)

    def close(self) -> None:
        """See `Sink`; online it waits until everything is there, offline until everything is in the file."""
        self._run.finish()
        self._wandb.teardown()  # `finish` does not wait for the process that still has the last rows to write


def check_login() -> None:
    """Make sure that W&B, where it is to be online, finds a login; nothing is sent.

    Raises:
        UserError: if there is none, or W&B's own settings are wrong.
    """
    from pydantic import ValidationError
    from requests.utils import get_netrc_auth

    wandb: Any = import_module("wandb")
    try:
        settings = wandb.setup().settings
    except ValidationError as error:
        first = error.errors()[0]
        name = f"WANDB_{'_'.join(map(str, first['loc'])).upper()}"
        raise UserError(f"metrics.sinks=wandb: {name}={first['input']}: {first['msg'].lower()}; set it so") from None
    finally:
        wandb.teardown()  # ends the process that W&B starts for its settings
    online = settings.mode not in {"offline", "dryrun", "disabled"}
    known = settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)
    if online and not (known or os.environ.get("WANDB_API_KEY")):
        raise UserError(
            f"metrics.sinks=wandb: no login for {settings.base_url} is found; run `wandb login`, set WANDB_API_KEY, or "
            "set WANDB_MODE=offline and sync later"
        )
