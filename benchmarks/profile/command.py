"""The command: which run, for how long, where everything goes."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.config.reading import read_config
from advdmd_ray.errors import UserError
from advdmd_ray.provenance import made_here
from benchmarks.endurance.one_run import OneRun, running, value
from benchmarks.endurance.processes import found
from benchmarks.new_folder import new_folder
from benchmarks.profile.picture import draw
from benchmarks.profile.stacks import RATE, busy, table

DONE, FAILED, BAD_INPUT = 0, 1, 2
DESCRIPTION = "Says which of our functions each process of a run is busy with, once the run is in full swing."
CYCLE = "advdmd_run_cycle"
LOOK_S = 0.5
OURS = ("driver", "hub", "rollout actor", "reward worker", "learner rank")


def main(argv: Sequence[str] | None = None) -> int:
    """Run, sample, write stacks, document and picture, and print the table.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0; 1 if the run ended before it was sampled; 2 for bad input.
    """
    try:
        args = _parser().parse_args(argv)
        folder, settings = _folder_of(args), _settings(args)
    except UserError as error:
        sys.stderr.write(f"profile: {error}\n")
        return BAD_INPUT
    folder.mkdir(parents=True)
    made = made_here()
    sys.stderr.write(f"the run's log is {folder / 'log.txt'}\n")
    with running(folder, settings | {"run": settings["run"] | {"output": str(folder)}}) as run:
        if not _in_full_swing(run, args.after):
            sys.stderr.write(f"profile: the run ended before cycle {args.after}; see {run.log}\n")
            return FAILED
        stacks = sampled(run, folder, args.seconds)
    processes = [busy(name, path.read_text(encoding="utf-8").splitlines(), args.seconds) for name, path in stacks]
    facts = {"config": args.config, "seconds": args.seconds, "processes": [asdict(each) for each in processes]}
    (folder / "profile.json").write_text(json.dumps({**made, **facts}, indent=1) + "\n", encoding="utf-8")
    draw(processes, folder / "profile.png")
    sys.stdout.write(f"commit {made['commit']}, {args.config}\n{table(processes)}{folder}\n")
    return DONE


def sampled(run: OneRun, folder: Path, seconds: int) -> list[tuple[str, Path]]:
    """Samples all processes of ours of a run side by side; the role and the collapsed stacks of each.

    Raises:
        UserError: if a process cannot be sampled.
    """
    processes = {role: each for role, each in found(run.mark, run.process.pid).items() if role.startswith(OURS)}
    stacks = [(role, folder / f"{role.replace(' ', '-')}.txt") for role in sorted(processes, key=_order)]
    with ExitStack() as stack:
        under_way = [stack.enter_context(_sampling(processes[role].pid, path, seconds)) for role, path in stacks]
        for (role, _), process in zip(stacks, under_way, strict=True):
            _, said = process.communicate()
            if process.returncode:
                raise UserError(f"the {role} could not be sampled: {said.decode(errors='replace').strip()}")
    return stacks


def _sampling(pid: int, path: Path, seconds: int) -> "subprocess.Popen[bytes]":
    program = str(Path(sys.executable).with_name("py-spy"))  # Ray brings it
    options = ["--format", "raw", "--rate", str(RATE), "--duration", str(seconds), "--nonblocking", "--function"]
    arguments = [program, "record", "--pid", str(pid), "--output", str(path), *options]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603 - our own arguments


def _order(role: str) -> tuple[int, str]:
    return next(place for place, name in enumerate(OURS) if role.startswith(name)), role


def _in_full_swing(run: OneRun, after: int) -> bool:
    while run.process.poll() is None:
        if (value(run.metrics(), CYCLE) or 0.0) >= after:
            return True
        time.sleep(LOOK_S)
    return False


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The run's settings: those of the configuration, without its limits of time."""
    overrides = ["run.name=profiled", "run.time_limit_s=null", "metrics.port=0", *args.overrides]
    return read_config(args.config, overrides).model_dump(mode="json")


def _folder_of(args: argparse.Namespace) -> Path:
    """Raises UserError for seconds or a cycle that are none, or a folder that is there."""
    if args.seconds < 1 or args.after < 1:
        raise UserError(f"--seconds and --after must be at least 1, got {args.seconds} and {args.after}")
    return new_folder(args.out, "profile")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.profile", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the run")
    parser.add_argument("--config", default="digits", help="a shipped configuration or a file (digits)")
    parser.add_argument("--seconds", type=int, default=20, help="how long each process is sampled (20)")
    parser.add_argument("--after", type=int, default=8, help="cycle from which on it is sampled (8)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (runs/bench/profile-...)")
    return parser
