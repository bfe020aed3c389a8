"""The command: how many groups, where everything goes."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.errors import UserError
from advdmd_ray.provenance import made_here
from benchmarks.endurance.findings import findings, read_samples, table
from benchmarks.endurance.picture import draw
from benchmarks.endurance.tiny import PER_CYCLE
from benchmarks.endurance.watching import watched
from benchmarks.new_folder import new_folder

DONE, FAILED, BAD_INPUT = 0, 1, 2
DESCRIPTION = "Runs very many tiny groups over Ray and says how memory, handles and threads of each process grow."
NO_END = 1_000_000 * PER_CYCLE
"""Groups of a run that ends by its time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run, measure, write samples, document and picture, and print the table.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0; 1 if the run failed; 2 for bad input.
    """
    try:
        args = _parser().parse_args(argv)
        folder = _folder_of(args)
    except UserError as error:
        sys.stderr.write(f"bench-memory: {error}\n")
        return BAD_INPUT
    folder.mkdir(parents=True)
    made = made_here()
    groups, limit_s = (args.groups, None) if args.minutes is None else (NO_END, 60.0 * args.minutes)
    sys.stderr.write(f"running {_length(args)}; its log is {folder / 'log.txt'}\n")
    code = watched(folder, groups, limit_s)
    if code:
        sys.stderr.write(f"bench-memory: the run ended with exit code {code}; see {folder / 'log.txt'}\n")
        return FAILED
    samples = read_samples(folder / "samples.jsonl")
    try:
        found = findings(samples)
    except ValueError as error:
        sys.stderr.write(f"bench-memory: {error}; run longer than {_length(args)}\n")
        return FAILED
    rows = [asdict(each) | {"verdict": each.verdict} for each in found]
    document = {**made, "groups": samples[-1]["groups"], "seconds": samples[-1]["seconds"], "findings": rows}
    (folder / "memory.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(samples, folder / "memory.png")
    sys.stdout.write(f"commit {made['commit']}, {document['groups']} groups\n{table(found)}{folder}\n")
    return DONE


def _length(args: argparse.Namespace) -> str:
    return f"{args.groups} groups" if args.minutes is None else f"{args.minutes:g} minutes"


def _folder_of(args: argparse.Namespace) -> Path:
    """Raises UserError for a length that no run has, or a folder that is there."""
    if args.groups < PER_CYCLE or args.groups % PER_CYCLE:
        raise UserError(f"--groups must be a multiple of {PER_CYCLE}, got {args.groups}")
    if args.minutes is not None and not 0 < args.minutes < float("inf"):
        raise UserError(f"--minutes must be more than 0, got {args.minutes}")
    return new_folder(args.out, "memory")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.endurance", description=DESCRIPTION, allow_abbrev=False)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--groups", type=int, default=20_000, help="groups of the run (20000)")
    length.add_argument("--minutes", type=float, help="minutes of training in place of a number of groups")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (runs/bench/memory-...)")
    return parser
