"""The command: arguments, the order of the measurements, the file and the table.

Imports torch only when the arguments are read, so that `--help` and bad input answer at once.
"""

import argparse
import gc
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.errors import RatioError, UserError
from benchmarks.sizes import FULL, SIZES

if TYPE_CHECKING:
    import torch

    from benchmarks.parts import Learns, Settings

DONE, FAILED, BAD_INPUT = 0, 1, 2
LEAST_REPEATS = 5
DESCRIPTION = "Times rollouts and learner updates of networks of Stable Diffusion 3.5 medium's size, random weights."
NO_DEVICE = "no CUDA device here: nothing was measured"
T = TypeVar("T")


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

    try:
        document = measure(settings)
    except RatioError as error:
        sys.stderr.write(f"bench: failed: {error}\n")
        return FAILED
    stamp = document["date"].replace(":", "").replace("-", "").partition("+")[0]
    out = args.out or Path("runs") / "bench" / f"{settings.size.name}-{settings.device.type}-{stamp}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{table(document)}{out}\n")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--size", choices=sorted(SIZES), default=FULL.name, help=f"of the networks ({FULL.name})")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu takes --size tiny only (cuda)")
    parser.add_argument("--learns", choices=["lora", "full", "both"], default="both", help="what learns (both)")
    parser.add_argument("--engine", choices=["deepspeed", "torch"], default="deepspeed", help="of the learner")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations of a forward")
    parser.add_argument("--rows", type=int, help="images of one update (the size's own)")
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS, help=f"at least {LEAST_REPEATS}, the default")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the document goes (runs/bench/...)")
    return parser


def _settings(args: argparse.Namespace) -> "Settings | None":
    """What was asked for; None if it needs a CUDA device and there is none.

    Raises:
        UserError: for numbers out of range, a full-size run on a CPU, or a file that is there.
    """
    size = SIZES[args.size]
    rows = size.rows if args.rows is None else args.rows
    if args.repeats < LEAST_REPEATS:
        raise UserError(f"--repeats must be at least {LEAST_REPEATS}, got {args.repeats}")
    if rows < 1:
        raise UserError(f"--rows must be at least 1, got {rows}")
    if args.device == "cpu" and size is FULL:
        raise UserError(f"--size {size.name} would take days on a CPU; give --size tiny, or --device cuda")
    if args.out is not None and args.out.exists():
        raise UserError(f"--out {args.out} exists; name another file")
    import torch  # noqa: PLC0415 - takes seconds

    if args.device == "cuda" and not torch.cuda.is_available():
        return None
    from benchmarks.parts import LEARNS, Settings  # noqa: PLC0415

    return Settings(
        size=size,
        device=torch.device(args.device),
        learns=LEARNS if args.learns == "both" else (args.learns,),
        engine=args.engine,
        checkpointing=not args.no_checkpointing,
        rows=rows,
        repeats=args.repeats,
    )


def measure(settings: "Settings") -> dict[str, Any]:
    """The whole benchmark: the plain loop, then rollouts and learner of each kind; as a document."""
    import torch  # noqa: PLC0415 - takes seconds

    from benchmarks.card import hardware  # noqa: PLC0415
    from benchmarks.document import header, rollout_figures  # noqa: PLC0415
    from benchmarks.parts import random_table, random_teacher  # noqa: PLC0415
    from benchmarks.rollouts import time_plain_loop  # noqa: PLC0415
    from benchmarks.timing import Stopwatch  # noqa: PLC0415

    stopwatch, machine = Stopwatch(settings.device), hardware(settings.device)
    teacher = random_teacher(settings, torch.bfloat16)
    document = header(settings, machine, sum(weight.numel() for weight in teacher.parameters()))
    plain = time_plain_loop(settings, teacher, random_table(settings), stopwatch)
    document["rollout"]["plain"] = rollout_figures(settings, plain, machine.peak_tflops, rank=0)
    del teacher
    for learns in settings.learns:
        _release(settings.device)
        _measure_kind(settings, learns, document, machine.peak_tflops)
    return document


def _measure_kind(settings: "Settings", learns: "Learns", document: dict[str, Any], peak: float | None) -> None:
    """Adds rollouts and learner of one kind; what does not fit into the GPU's memory is said to be not measured."""
    from benchmarks.document import learner_figures, rollout_figures  # noqa: PLC0415
    from benchmarks.learning import time_learner  # noqa: PLC0415
    from benchmarks.parts import base_dtype, config_of, random_table, random_teacher  # noqa: PLC0415
    from benchmarks.rollouts import time_rollouts  # noqa: PLC0415
    from benchmarks.timing import Stopwatch  # noqa: PLC0415

    config, stopwatch, table = config_of(settings, learns), Stopwatch(settings.device), random_table(settings)
    teacher, why = _fitting(lambda: random_teacher(settings, base_dtype(learns)))
    if teacher is None:
        document["rollout"][learns] = document["learner"][learns] = {"not_measured": why}
        return
    made, why = _fitting(lambda: time_rollouts(settings, config, teacher, table, stopwatch))
    if made is None:
        document["rollout"][learns] = document["learner"][learns] = {"not_measured": why}
        return
    timing, group = made
    row = rollout_figures(settings, timing, peak, config.lora.rank)
    plain = document["rollout"]["plain"]["images_per_s"]
    document["rollout"][learns] = row | {"of_plain": row["images_per_s"] / plain}
    _release(settings.device)
    measured, why = _fitting(lambda: time_learner(settings, config, teacher, table, group, stopwatch))
    document["learner"][learns] = (
        {"not_measured": why} if measured is None else learner_figures(settings, config, measured, peak)
    )


def _fitting(work: Callable[[], T]) -> tuple[T | None, str]:
    """What the work gives, or None and why, if the GPU's memory is too small for it."""
    import torch  # noqa: PLC0415 - takes seconds

    try:
        return work(), ""
    except torch.cuda.OutOfMemoryError as error:
        return None, ". ".join(str(error).split(". ")[:2])  # that it ran out, and what it asked for


def _release(device: "torch.device") -> None:
    """Gives memory back that nobody uses any more."""
    import torch  # noqa: PLC0415 - takes seconds

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
