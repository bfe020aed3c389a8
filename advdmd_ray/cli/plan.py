"""`advdmd plan`: forecasts a run and recommends how to split GPUs over its roles."""

import argparse
import json
import sys
from pathlib import Path

from advdmd_ray.cli.arguments import COUNT, DONE, PATH, Command, add_config, number
from advdmd_ray.config import Config, read_config
from advdmd_ray.errors import UserError
from advdmd_ray.planning.cards import CARDS, GIGA, TERA
from advdmd_ray.runs.needs.sharing import Split


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd plan`."""
    add_config(command)
    command.add_argument("--gpus", type=COUNT, metavar="N", help="GPUs to split; default: as many as configured")
    command.add_argument("--nodes", type=COUNT, default=1, metavar="M", help="nodes that they are on; default: 1")
    command.add_argument("--device", choices=sorted(CARDS), default="h100", help="the GPU; default: h100")
    command.add_argument(
        "--utilisation",
        type=number(0.001, 1),
        default=0.4,
        metavar="U",
        help="share of the peak that is reached; default: 0.4",
    )
    command.add_argument(
        "--bandwidth", type=number(0.001, 10_000), default=1.0, metavar="GB/S", help="of weights and groups; default: 1"
    )
    command.add_argument(
        "--from", dest="measured", type=PATH, metavar="RUN", help="take the costs that this run folder measured"
    )
    command.add_argument("--json", action="store_true", help="print the plan as JSON")


def run_command(args: argparse.Namespace) -> int:
    """Prints the plan."""
    config = read_config(args.config, args.overrides)
    gpus = _gpus(config) if args.gpus is None else args.gpus
    if args.gpus is not None and not _all_on_gpus(config):
        raise UserError(
            "--gpus splits GPUs, and the configuration has roles without one: set rollout.num_gpus, reward.num_gpus "
            "and learner.num_gpus, or leave out --gpus"
        )
    if gpus % args.nodes:
        raise UserError(f"--nodes {args.nodes} does not divide {gpus} GPUs; give a number that does")
    from advdmd_ray.planning.measured import measured
    from advdmd_ray.runs.folder import RunFolder
    from advdmd_ray.runs.needs.memory import sizes_of

    sizes = sizes_of(config)
    means = {} if args.measured is None else measured(RunFolder(Path(args.measured)).metrics)
    # Only now, as the controller imports torch.
    from advdmd_ray.planning.costs import Speeds, Work, computed
    from advdmd_ray.planning.report import plan, plan_text
    from advdmd_ray.planning.virtual import Costs

    card = CARDS[args.device]
    if args.measured is None:
        work, speeds = Work.of(config, sizes), Speeds(card, args.utilisation, args.bandwidth * GIGA)
        peak = f"{card.name} {card.peak(config.model.precision) / TERA:g} TFLOP/s ({card.source})"
        assumed = (
            f"computed from {work.flops / TERA:,.3g} TFLOP a forward; assumed: {peak}, of which {args.utilisation:g} "
            f"is reached, and {args.bandwidth:g} GB/s for weights and groups"
        )
        made = plan(
            config, sizes, card=card.memory, gpus=gpus, costs=lambda of: computed(of, work, speeds), search=gpus > 0
        )
    else:
        seconds = Costs(means["generate"], means["score"], means["cycle"], means["hand_over"])
        assumed = f"measured by {args.measured}, for workers and ranks like its own"
        made = plan(config, sizes, card=card.memory, gpus=gpus, costs=lambda _: seconds, search=False)
    if args.json:
        sys.stdout.write(json.dumps(made.as_json() | {"assumed": assumed}, indent=2) + "\n")
    else:
        sys.stdout.write(plan_text(made, config, gpus=gpus, nodes=args.nodes, assumed=assumed))
    return DONE


def _all_on_gpus(config: Config) -> bool:
    return all(role.num_gpus for role in config.roles.values())


def _gpus(config: Config) -> int:
    """Whole GPUs that hold a configuration; 0 unless every role has one."""
    return Split.of(config).gpus if _all_on_gpus(config) else 0


COMMAND = Command(
    "plan",
    "Forecast a run's pace, idle time, ages and memory, and recommend how to split GPUs over its roles.",
    add_arguments,
    run_command,
)
