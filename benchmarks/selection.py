"""`python -m benchmarks.selection`: what a discriminator's choice among a prompt's images is worth, skill by skill."""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.data.shapes.skills import SKILLS, ShapePrompt, all_prompts
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import rollout, sample
from advdmd_ray.diffusion.schedule import teacher_sigmas
from advdmd_ray.diffusion.seeds import derive_seed, group_noise
from advdmd_ray.errors import CheckpointError, UserError
from advdmd_ray.losses.adversarial import pair_agreement
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_pipeline
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.stations.prompt_table import PromptTable
from benchmarks.estimators.field import Field
from benchmarks.estimators.opening import checkpoint_at, open_field

DONE, BAD_INPUT = 0, 2
DESCRIPTION = (
    "Draws many images of each prompt of the shapes, by a checkpoint's student and by its teacher, and asks the exact "
    "checker: how many are right, how many of those that the checkpoint's discriminator ranks highest, and how many "
    "if the best were known. Of the pairs that the checker grades differently, the share that the discriminator orders "
    "alike is its agreement, of each level's score by itself."
)
HEAD = (
    "| images from | skill | prompts | right | chosen by D | ceiling | agreement of levels 1 to K |\n"
    "|---|---|---|---|---|---|---|\n"
)

Draw: TypeAlias = Callable[[Conditioning, Sequence[int]], tuple[Tensor, Tensor]]
"""From conditioning and seeds of n images to their states `[n, k + 1, c, h, w]` and the levels of these `[k + 1]`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What choosing among the images of one prompt brings.

    Attributes:
        right: Share of all images that are right, in [0, 1].
        chosen: Of those with the highest final scores.
        ceiling: Of as many, if those that are right are taken first.
        agreement: Of each level's scores; nan where all images are graded alike.
    """

    right: float
    chosen: float
    ceiling: float
    agreement: Float[Tensor, " k"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each sampler and skill.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0, or 2 for bad input.
    """
    try:
        args = _parser().parse_args(argv)
        _check(args)
        place = open_field(checkpoint_at(args.checkpoint), args.set, args.seed)
    except (UserError, CheckpointError) as error:
        sys.stderr.write(f"selection: {error}\n")
        return BAD_INPUT
    sys.stdout.write(HEAD)
    for sampler, draw in samplers(place, args.teacher_steps).items():
        for skill, prompts in asked(args.prompts).items():
            found = list(choices(place, draw, encoded(place, prompts), of=args.of, best=args.best))
            sys.stdout.write(f"| {sampler} | {skill} | {len(prompts)} | {summary(found)} |\n")
            sys.stdout.flush()
    return DONE


def asked(most: int) -> dict[str, list[ShapePrompt]]:
    """So many prompts of each skill, drawn from all that it has; those that training never shows by themselves."""
    found: dict[str, list[ShapePrompt]] = {}
    for held_out in (False, True):
        for skill in SKILLS:
            own = [prompt for prompt in all_prompts() if prompt.skill == skill and prompt.held_out == held_out]
            if own:
                # Not every n-th: the table is in an order, and every third placement is one to the left or the right.
                some = random.Random(0).sample(own, min(most, len(own)))  # noqa: S311 - a choice, not a secret
                name = skill.replace("_", " ") + (", held out" if held_out else "")
                found[name] = some
    return found


def samplers(place: Field, teacher_steps: int) -> dict[str, Draw]:
    """Who draws: the student, whose every state is scored, and the guided teacher, of which the final image is."""
    setting, shape = place.setting, place.latent_shape

    def by_student(said: Conditioning, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        made = rollout(place.student, said, setting.kernel, setting.sigmas, shape=shape, seeds=seeds)
        return made.latents, setting.sigmas

    def by_teacher(said: Conditioning, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        info, x = inspect_pipeline(setting.config.model.path), group_noise(shape, seeds, "initial")
        levels = teacher_sigmas(teacher_steps, info.teacher_shift(teacher_steps), info.scheduler_terminal)
        return torch.stack([x, sample(setting.teacher, said, Kernel.ode(), levels, x)], dim=1), torch.tensor([1.0, 0.0])

    found: dict[str, Draw] = {f"student, {setting.sigmas.numel() - 1} steps": by_student}
    return found | ({f"teacher, {teacher_steps} steps": by_teacher} if teacher_steps else {})


def encoded(place: Field, prompts: Sequence[ShapePrompt]) -> PromptTable:
    """A table of these prompts alone, whether the checkpoint's run asks for them or not."""
    texts, config = tuple(prompt.text for prompt in prompts), place.config
    said = encode_prompts(load_pipeline(config.model.path, parts="text"), texts, config.model.max_sequence_length)
    return PromptTable(texts, said, place.setting.table.unconditional)


@torch.no_grad()
def choices(place: Field, draw: Draw, table: PromptTable, *, of: int, best: int) -> Iterator[Choice]:
    """What the discriminator's choice brings, prompt by prompt.

    Args:
        place: The networks.
        draw: Who draws.
        table: The prompts.
        of: Images of each.
        best: How many of them are chosen, fewer than `of`.
    """
    for row, text in enumerate(table.texts):
        seeds = [derive_seed(place.seed, "selection", text, image) for image in range(of)]
        latents, levels = draw(table.of(row, of), seeds)
        judge = replace(place, setting=replace(place.setting, table=table, sigmas=levels))
        yield choice(judge.scores(latents, row, seeds[0]), place.oracle.scores(latents[:, -1], text), best)


def choice(scores: Float[Tensor, "n k"], truth: Float[Tensor, " n"], best: int) -> Choice:
    """Of one prompt's images.

    Args:
        scores: At each level, the final one last.
        truth: The checker's score, in [0, 1]; 1 is all right.
        best: How many are chosen.
    """
    right = (truth == 1).double()
    chosen = right[scores[:, -1].topk(best).indices].mean()
    ceiling = right.topk(best).values.mean()
    return Choice(float(right.mean()), float(chosen), float(ceiling), pair_agreement(scores, truth))


def summary(found: Sequence[Choice]) -> str:
    """Means over prompts, with their standard errors, as cells of a table."""
    parts = [[one.right for one in found], [one.chosen for one in found], [one.ceiling for one in found]]
    shares = [_mean(torch.tensor(part, dtype=torch.float64), 100.0, 1) + " %" for part in parts]
    agreed = torch.stack([one.agreement for one in found]).double()
    return " | ".join([*shares, ", ".join(_mean(level[~level.isnan()], 1.0, 2) for level in agreed.T)])


def _mean(values: Float[Tensor, " n"], unit: float, places: int) -> str:
    if not len(values):
        return "-"
    told = f"{unit * float(values.mean()):.{places}f}"
    return told if len(values) == 1 else f"{told} ± {unit * float(values.std()) / len(values) ** 0.5:.{places}f}"


def _check(args: argparse.Namespace) -> None:
    """Raises UserError for numbers out of range."""
    if not 0 < args.best < args.of:
        raise UserError(f"--best must be at least 1 and less than --of, got {args.best} of {args.of}")
    if args.prompts < 1 or args.teacher_steps < 0:
        got = f"{args.prompts} and {args.teacher_steps}"
        raise UserError(f"--prompts must be 1 or more and --teacher-steps 0 or more, got {got}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.selection", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint, or of a run or job: its newest")
    parser.add_argument("--of", type=int, default=36, help="images of a prompt (36)")
    parser.add_argument("--best", type=int, default=6, help="of them that are chosen (6)")
    parser.add_argument("--prompts", type=int, default=24, help="of a skill (24)")
    parser.add_argument("--teacher-steps", type=int, default=0, help="of the teacher; 0: its images are left out (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings over the run's own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
