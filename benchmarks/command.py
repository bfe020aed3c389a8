"""The command: arguments, the file and the table.

Imports torch only when the arguments are read, so that `--help` and bad input answer at once.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.errors import RatioError, UserError
from benchmarks.models import FAMILIES, SIZES, Model

if TYPE_CHECKING:
    from benchmarks.parts import Settings

DONE, FAILED, BAD_INPUT = 0, 1, 2
LEAST_REPEATS = 5
DESCRIPTION = (
    "Times rollouts, transfers, publishing and learner updates of every family's networks, at true sizes, with random "
    "weights."
)
NO_DEVICE = "no CUDA device here: nothing was measured"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the JSON document and print its table.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0, also where there is no CUDA device and nothing was measured; 1 if the networks give no numbers; 2 for bad
        input.
    """
    try:
        args = _parser().parse_args(argv)
        settings = _settings(args)
    except UserError as error:
        sys.stderr.write(f"bench: {error}\n")
        return BAD_INPUT
    if settings is None:
        sys.stdout.write(NO_DEVICE + "\n")
        return DONE
    from benchmarks.document import table  # noqa: PLC0415
    from benchmarks.measuring import measure  # noqa: PLC0415

    try:
        document = measure(_chosen(args), settings)
    except RatioError as error:
        sys.stderr.write(f"bench: failed: {error}\n")
        return FAILED
    stamp = document["date"].replace(":", "").replace("-", "").partition("+")[0]
    out = args.out or Path("runs") / "bench" / f"{args.size}-{settings.device.type}-{stamp}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{table(document)}{out}\n")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks", description=DESCRIPTION, allow_abbrev=False)
    families = {"action": "append", "choices": FAMILIES, "dest": "families"}
    parser.add_argument("--family", **families, help="whose networks are measured; may be given again (all)")
    parser.add_argument("--size", choices=sorted(SIZES), default="full", help="of the networks (full)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu takes --size tiny only (cuda)")
    parser.add_argument("--engine", choices=["deepspeed", "torch"], default="deepspeed", help="of the learner")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations of a forward")
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS, help=f"at least {LEAST_REPEATS}, the default")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the document goes (runs/bench/...)")
    return parser


def _settings(args: argparse.Namespace) -> "Settings | None":
    """What was asked for; None if it needs a CUDA device and there is none.

    Raises:
        UserError: for numbers out of range, a full-size run on a CPU, or a file that is there.
    """
    if args.repeats < LEAST_REPEATS:
        raise UserError(f"--repeats must be at least {LEAST_REPEATS}, got {args.repeats}")
    if args.device == "cpu" and args.size == "full":
        raise UserError("--size full would take days on a CPU; give --size tiny, or --device cuda")
    if args.out is not None and args.out.exists():
        raise UserError(f"--out {args.out} exists; name another file")
    import torch  # noqa: PLC0415 - takes seconds

    if args.device == "cuda" and not torch.cuda.is_available():
        return None
    from benchmarks.parts import Settings  # noqa: PLC0415

    return Settings(
        device=torch.device(args.device),
        engine=args.engine,
        checkpointing=False if args.no_checkpointing else None,
        repeats=args.repeats,
    )


def _chosen(args: argparse.Namespace) -> tuple[Model, ...]:
    families = FAMILIES if args.families is None else args.families
    return tuple(model for model in SIZES[args.size] if model.family in families)
