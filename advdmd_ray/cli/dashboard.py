"""`advdmd dashboard`: the page of runs, live in a browser or frozen as a file."""

import argparse
import sys
from pathlib import Path

from advdmd_ray.cli.arguments import DONE, PATH, Command, words, write_out
from advdmd_ray.cli.arguments import whole as whole_number
from advdmd_ray.config.texts import MOST_PORT
from advdmd_ray.errors import UserError

PORT = 8420
MOST_RUNS = 8


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd dashboard`."""
    command.add_argument(
        "runs",
        nargs="+",
        type=PATH,
        metavar="RUN",
        help=f"a run folder, going, ended or stopped; of several (at most {MOST_RUNS}) the curves are compared",
    )
    command.add_argument(
        "--host", type=words, default="127.0.0.1", help="127.0.0.1: this machine alone; others need the printed token"
    )
    command.add_argument(
        "--port", type=whole_number(0, MOST_PORT), default=PORT, metavar="N", help=f"{PORT}; 0: a free one"
    )
    command.add_argument("--out", type=PATH, metavar="FILE", help="write the page to a file, and serve nothing")


def run_command(args: argparse.Namespace) -> int:
    """Serves the page until it is stopped, or writes it."""
    from advdmd_ray.runs.outputs import check_file
    from advdmd_ray.runs.page.page import page_text
    from advdmd_ray.runs.page.record import read_record
    from advdmd_ray.runs.page.samples import InPage
    from advdmd_ray.runs.page.server import Served, Server
    from advdmd_ray.runs.page.several import names_of

    folders = _folders(args.runs)
    runs = list(zip(folders, names_of(folders), strict=True))
    if args.out is not None:
        check_file(out := Path(args.out), "--out")
        records = [read_record(folder, name) for folder, name in runs]
        write_out(out, page_text(records, InPage(out), live=False))
        sys.stdout.write(f"{out}\n")
        return DONE
    with Server(args.host, args.port, Served(runs)) as server:
        sys.stdout.write(f"{server.page_address} shows {', '.join(name for _, name in runs)}; Ctrl-C ends it\n")
        sys.stdout.flush()
        server.serve_forever()
    return DONE


def _folders(given: list[str]) -> list[Path]:
    """The run folders.

    Raises:
        UserError: for one that is none, one that was given twice, or too many.
    """
    from advdmd_ray.runs.folder import RunFolder

    folders = [Path(text) for text in given]
    for folder in folders:
        run = RunFolder(folder)
        if not any(path.is_file() for path in (run.config, run.metrics, run.lock, run.summary)):
            raise UserError(f"{folder}: no run is there; give the folder of one, such as runs/demo")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is given twice; give each once")
    if len(folders) > MOST_RUNS:
        raise UserError(f"{len(folders)} runs are given; give at most {MOST_RUNS}")
    return folders


COMMAND = Command(
    "dashboard",
    "Show the page of runs while they train or after, in a browser or as one file.",
    add_arguments,
    run_command,
)
