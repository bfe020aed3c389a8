"""`advdmd pretrain`: trains the small teacher of a built-in data source."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from advdmd_ray.cli.arguments import DONE, Command, add_config
from advdmd_ray.config.pretrain import read_pretrain
from advdmd_ray.errors import UserError
from advdmd_ray.files import disk_told
from advdmd_ray.runs.outputs import check_writable


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd pretrain`."""
    add_config(command)


def run_command(args: argparse.Namespace) -> int:
    """Trains the teacher and prints its card."""
    config = read_pretrain(args.config, args.overrides)
    folder = Path(config.pretrain.folder)
    check_writable(folder, "set another pretrain.folder")
    if folder.exists():
        raise UserError(f"{folder} exists; move it away or set another pretrain.folder")

    from advdmd_ray.pretrain.teacher import pretrain_teacher
    from advdmd_ray.runtime.counting import Counted, counted

    with ExitStack() as until_done:

        def told(what: str, total: int) -> Callable[[int, float], None]:
            shown: list[Counted] = []

            def progress(step: int, loss: float) -> None:
                if not shown:  # nothing is refused any more
                    shown.append(until_done.enter_context(counted(what)))
                shown[0](step, total, f", loss {loss:.4f}")

            return progress

        command = shlex.join(["advdmd", "pretrain", "--config", args.config, *args.overrides])
        remedy = "make room; the same command goes on from the last checkpoint"
        with disk_told(f"{folder}, or a checkpoint beside it,", remedy):
            card = pretrain_teacher(
                config,
                command=command,
                progress=told("training the teacher", config.pretrain.steps),
                reading=told("teaching the text encoder", config.pretrain.text_steps),
            )
    sys.stdout.write(json.dumps(card, indent=2) + f"\n{folder}\n")
    return DONE


COMMAND = Command(
    "pretrain",
    "Train the small teacher of data.source and write its pipeline folder.",
    add_arguments,
    run_command,
    long=True,
)
