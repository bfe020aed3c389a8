"""The command: which rows, how often, where the document goes."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.errors import UserError
from benchmarks.host.contest import Row
from benchmarks.host.document import header, machine_kind, report, row_figures, table

DONE, BAD_INPUT = 0, 2
BASELINES = Path(__file__).parents[1] / "baselines"
DESCRIPTION = "Times what a run does on the host, against its rivals, in turns."


def main(argv: Sequence[str] | None = None, rows: Sequence[Row] | None = None, baselines: Path = BASELINES) -> int:
    """Measure, write the JSON document, print its table and the regression report.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.
        rows: What can be measured; all rows there are if None.
        baselines: Folder of the stored documents, one for each kind of machine.

    Returns:
        0, also for a regression, which is reported; 2 for bad input.
    """
    if rows is None:
        from benchmarks.host.rows import ROWS  # noqa: PLC0415 - takes seconds

        rows = ROWS
    try:
        args = _parser(rows).parse_args(argv)
        _check(args)
    except UserError as error:
        sys.stderr.write(f"bench: {error}\n")
        return BAD_INPUT
    document = header()
    for row in rows:
        if not args.rows or row.name in args.rows:
            sys.stderr.write(f"measuring {row.name}\n")
            with row.opened() as field:
                figures = row.held(field, warm_up=args.warm_up, repeats=args.repeats)
            document["rows"][row.name] = row_figures(row, figures, field)
    stored = baselines / f"{machine_kind(document)}.json"
    baseline = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else None
    out = args.out or Path("runs") / "bench" / f"host-{_stamp(document)}.json"
    _write(out, document)
    sys.stdout.write(f"{table(document)}\n{report(document, baseline)}{out}\n")
    if args.keep:
        _write(stored, document)
    return DONE


def _parser(rows: Sequence[Row]) -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.host", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(row.name for row in rows)} (all)")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that are counted (15)")
    parser.add_argument("--warm-up", type=int, default=3, help="rounds before them (3)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the document goes (runs/bench/...)")
    parser.add_argument("--keep", action="store_true", help="store the document as baseline of this kind of machine")
    parser.set_defaults(known=frozenset(row.name for row in rows))
    return parser


def _check(args: argparse.Namespace) -> None:
    """Raises UserError for an unknown row, numbers out of range, or a file that is there."""
    if unknown := [name for name in args.rows if name not in args.known]:
        raise UserError(f"there is no row {unknown[0]!r}; rows are {', '.join(sorted(args.known))}")
    if args.repeats < 1 or args.warm_up < 0:
        raise UserError(f"--repeats must be at least 1 and --warm-up at least 0, got {args.repeats} and {args.warm_up}")
    if args.out is not None and args.out.exists():
        raise UserError(f"--out {args.out} exists; name another file")


def _stamp(document: dict[str, Any]) -> str:
    return document["date"].replace(":", "").replace("-", "").partition("+")[0]


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
