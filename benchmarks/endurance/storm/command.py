"""The command: how long, which seed, where everything goes."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.errors import UserError
from advdmd_ray.provenance import made_here
from benchmarks.endurance.storm.evidence import gathered
from benchmarks.endurance.storm.faults import KINDS, drawn
from benchmarks.endurance.storm.hitting import END_S, TERMINATED, Hitting
from benchmarks.endurance.storm.leftovers import Traces, all_processes, holding, listening, of_ray, run_processes
from benchmarks.endurance.storm.lives import ACTORS, Lives, settings
from benchmarks.endurance.storm.place import Place
from benchmarks.endurance.storm.storm import START_S, Storm
from benchmarks.endurance.storm.table import lines, table
from benchmarks.endurance.storm.verdict import Finding, verdict
from benchmarks.new_folder import new_folder

DONE, FAILED, BAD_INPUT = 0, 1, 2
LAST_CYCLES = 3
"""Of the last driver, which ends by itself."""
DESCRIPTION = "Kills and stops the processes and nodes of a run, one after another, and judges what the run made of it."


def main(argv: Sequence[str] | None = None) -> int:
    """Storms, judges, writes storm.json and prints table and verdict.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0; 1 if a line of the verdict is no, or the run could not go on; 2 for bad input.
    """
    try:
        args = _parser().parse_args(argv)
        folder = _folder_of(args)
    except UserError as error:
        sys.stderr.write(f"chaos: {error}\n")
        return BAD_INPUT
    folder.mkdir(parents=True)
    made, broken = made_here(), ""
    left: dict[str, Any] = {}
    with Place() as place:
        tree = settings(folder, place.address, args.actors)
        traces, lives = Traces(place.mark), Lives(folder, tree, place.mark)
        hitting = Hitting(place, lives, args.without)
        storm = Storm(place, lives, hitting, traces, args.bound)
        try:
            storm.rage(drawn(args.seed, tuple(args.without)), 60.0 * args.minutes, args.faults)
            stuck = hitting.stuck()
            cycles = _stopped(lives) if args.stop else _to_its_end(lives)
        except RuntimeError as error:
            broken, cycles, stuck = str(error), 0, []
        left |= _left_on(place, traces, folder)
        if not lives.over:
            lives.ended((), 0.0)
    left |= {
        "process": all_processes(place.mark),
        "port": listening(place.mark, traces.ports),
        "shared memory": [str(path) for path in sorted(traces.shared) if path.exists()],
    }
    document: dict[str, Any] = {**made, "seed": args.seed, "strikes": [asdict(each) for each in storm.strikes]}
    if broken:
        findings = [Finding("the run goes on after every fault", holds=False, evidence=broken)]
    else:
        tree["run"]["cycles"] = cycles
        findings = verdict(gathered(folder, tree, lives.ends, stuck, left))
    document |= {"verdict": [asdict(each) for each in findings], "ends": [asdict(each) for each in lives.ends]}
    (folder / "storm.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"commit {made['commit']}, seed {args.seed}\n{table(storm.strikes)}{lines(findings)}{folder}\n")
    return DONE if all(each.holds for each in findings) else FAILED


def _stopped(lives: Lives) -> int:
    """Stops the run as its owner does; the cycle that it saves.

    Raises:
        RuntimeError: if it does not stop.
    """
    lives.run.process.terminate()
    if not lives.ended((TERMINATED,), END_S).expected:
        raise RuntimeError(f"it does not end by SIGTERM: {lives.ends[-1].said}")
    return max(int(path.name.removeprefix("step-")) for path in lives.files.checkpoints.glob("step-*"))


def _to_its_end(lives: Lives) -> int:
    """Stops the run, and has it go on for a few cycles more; the last cycle.

    Raises:
        RuntimeError: if it does not stop, or not end.
    """
    newest = _stopped(lives)
    lives.go_on(f"run.cycles={newest + LAST_CYCLES}")
    lives.ended((0,), START_S + END_S)
    return newest + LAST_CYCLES


def _left_on(place: Place, traces: Traces, folder: Path) -> dict[str, Any]:
    """What the run left on a cluster that goes on."""
    held = {"worker": run_processes(traces.mark), "open file": holding(traces.mark, folder)}
    return held | {f"{what.replace('_', ' ')} in Ray": count for what, count in of_ray(place.address).items()}


def _folder_of(args: argparse.Namespace) -> Path:
    """Raises UserError for a time that no storm has, targets that are none, or a folder that is there."""
    if not (math.isfinite(args.minutes) and args.minutes > 0):
        raise UserError(f"--minutes must be above 0, got {args.minutes}")
    if not (math.isfinite(args.bound) and args.bound > 0):
        raise UserError(f"--bound must be above 0, got {args.bound}")
    if args.faults is not None and args.faults < 1:
        raise UserError(f"--faults must be at least 1, got {args.faults}")
    if not 1 <= args.actors <= ACTORS:
        raise UserError(f"--actors must be 1 to {ACTORS}, got {args.actors}")
    if not {target for target, _ in KINDS} - set(args.without):
        raise UserError("--without spares all targets; leave one")
    return new_folder(args.out, "chaos")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.endurance.storm", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=3.0, help="for how long there are faults (3)")
    parser.add_argument("--faults", type=int, help="the most that there are (no limit)")
    parser.add_argument("--bound", type=float, default=60.0, help="seconds in which a run is to be back (60)")
    parser.add_argument("--seed", type=int, default=0, help="which faults, when (0)")
    parser.add_argument("--actors", type=int, default=ACTORS, help=f"rollout actors of the run ({ACTORS})")
    parser.add_argument(
        "--stop", action="store_true", help="judge the run where its owner stops it, and not at its end"
    )
    targets = sorted({target for target, _ in KINDS})
    parser.add_argument("--without", action="append", default=[], choices=targets, help="a target that is spared")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (runs/bench/chaos-...)")
    return parser
