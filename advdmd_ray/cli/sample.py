"""`advdmd sample`: draws images from a pipeline folder."""

import argparse
import sys
from pathlib import Path

from advdmd_ray.cli.arguments import COUNT, DONE, GUIDANCE, PATH, PIXELS, SEED, STEPS, Command, add_place, words


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `advdmd sample`."""
    command.add_argument(
        "--pipeline", required=True, type=PATH, metavar="FOLDER", help="diffusers folder, or builtin:NAME"
    )
    command.add_argument(
        "--prompt", required=True, action="append", type=words, metavar="TEXT", help="give it again for more rows"
    )
    command.add_argument("--steps", type=STEPS, help="network calls per image (default: the folder's levels, or 4)")
    command.add_argument(
        "--guidance", type=GUIDANCE, help="guidance scale, 1 to 20 (default: the folder's, or 1 for none)"
    )
    command.add_argument(
        "--negative-prompt", type=words, metavar="TEXT", help="what guidance leads away from (default: no words)"
    )
    command.add_argument("--images", type=COUNT, default=8, help="images per prompt (default 8)")
    command.add_argument("--seed", type=SEED, default=0, help="names the seed of every image (default 0)")
    command.add_argument(
        "--size", type=PIXELS, nargs=2, metavar=("H", "W"), help="pixels (default: every size that the folder names)"
    )
    add_place(command)
    place = command.add_mutually_exclusive_group(required=True)
    place.add_argument("--out", type=PATH, metavar="PNG", help="where the grid goes")
    place.add_argument(
        "--grid", dest="out", nargs="?", const="grid.png", type=PATH, metavar="PNG", help="the same; here, grid.png"
    )


def run_command(args: argparse.Namespace) -> int:
    """Writes the grid and prints its path."""
    from advdmd_ray.evaluation.place import place_of
    from advdmd_ray.evaluation.sample import sample_grid
    from advdmd_ray.runs.outputs import check_writable
    from advdmd_ray.runtime.counting import drawing_progress

    check_writable(Path(args.out).parent, "give another --out")
    place = place_of(args.device, args.precision)
    with drawing_progress() as progress:
        path = sample_grid(
            args.pipeline,
            args.prompt,
            steps=args.steps,
            guidance=args.guidance,
            negative_prompt=args.negative_prompt,
            images=args.images,
            seed=args.seed,
            out=Path(args.out),
            place=place,
            size=None if args.size is None else (args.size[0], args.size[1]),
            progress=progress,
        )
    sys.stdout.write(f"{path}\n")
    return DONE


COMMAND = Command(
    "sample",
    "Draw images from a teacher's or a student's pipeline folder into a PNG grid.",
    add_arguments,
    run_command,
    long=True,
)
