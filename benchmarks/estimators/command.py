"""The command: which checkpoint, which estimators, how much of each."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.errors import CheckpointError, UserError
from advdmd_ray.learner.batch import LearnerBatch
from advdmd_ray.runtime.counting import counted
from benchmarks.estimators.document import Row, document, table
from benchmarks.estimators.estimator import Estimator
from benchmarks.estimators.estimators import ESTIMATORS
from benchmarks.estimators.field import Field, Forwards
from benchmarks.estimators.measure import changes, mean_cosine, turn_of
from benchmarks.estimators.opening import checkpoint_at, open_field
from benchmarks.new_folder import new_folder

DONE, BAD_INPUT = 0, 2
LEAST_TURNS = 3
DESCRIPTION = "Measures estimators of RL's gradient at one checkpoint, against its discriminator as it is."


@dataclass(frozen=True, slots=True)
class Asked:
    """How much is measured.

    Attributes:
        turns: RL turns for the cosine; 0: none is measured.
        marks: Numbers of updates after which the checker is asked; empty: it is not.
        images: That it looks at.
    """

    turns: int
    marks: Sequence[int]
    images: int

    def steps(self, estimators: int) -> int:
        """Turns and updates in all."""
        return estimators * (self.turns + (self.marks[-1] if self.marks else 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the JSON document and print the table.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0; 2 for bad input.
    """
    try:
        args = _parser().parse_args(argv)
        asked, chosen = _asked(args), {name: ESTIMATORS[name] for name in args.names or ESTIMATORS}
        folder, checkpoint = new_folder(args.out, "estimators"), checkpoint_at(args.checkpoint)
        place = open_field(checkpoint, args.set, args.seed)
        fields = {name: place.under(estimator.overrides, name) for name, estimator in chosen.items()}
    except (UserError, CheckpointError) as error:
        sys.stderr.write(f"estimators: {error}\n")
        return BAD_INPUT
    rows = measured(chosen, fields, asked)
    facts = {
        "checkpoint": {"path": str(checkpoint.path), "cycle": checkpoint.step},
        "settings": args.set,
        "seed": args.seed,
        "turns": asked.turns,
        "images": asked.images,
        "threads": torch.get_num_threads(),
    }
    folder.mkdir(parents=True)
    text = json.dumps(document(facts, rows), indent=1, allow_nan=False) + "\n"
    (folder / "estimators.json").write_text(text, encoding="utf-8")
    sys.stdout.write(f"{table(rows, asked.marks)}{folder}\n")
    return DONE


def measured(chosen: dict[str, Estimator], fields: dict[str, Field], asked: Asked) -> dict[str, Row]:
    """Every estimator in its field, one after the other; they share the turns that the student as it is makes."""
    turns = _Turns()
    some = next(iter(fields.values()))
    before = some.checked(asked.images) if asked.marks else torch.zeros(0)
    with _progress(asked.steps(len(chosen))) as told:
        return {name: _row(estimator, fields[name], asked, turns, before, told) for name, estimator in chosen.items()}


class _Turns:
    """Turns made by the student as it is, kept while estimators ask for groups of the same size."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], tuple[LearnerBatch, Forwards]] = {}

    def get(self, estimator: Estimator, place: Field, number: int) -> tuple[LearnerBatch, Forwards]:
        """A turn, and what actors ran forward for it."""
        config = place.config
        key = (
            estimator.draws,
            number,
            config.rollout.groups_per_cycle,
            config.rollout.group_size,
            config.reward.final_levels,
        )
        if key not in self._made:
            before = place.forwards.so_far
            batch = estimator.turn(place, number)
            self._made[key] = batch, place.forwards.so_far - before
        return self._made[key]


def _row(
    estimator: Estimator, place: Field, asked: Asked, turns: _Turns, before: torch.Tensor, told: Callable[[], None]
) -> Row:
    made, actors = [], Forwards()
    for number in range(max(asked.turns, 1)):
        batch, actors = turns.get(estimator, place, number)
        made.append(turn_of(place, estimator, batch))
        if asked.turns:
            told()
    cosine = mean_cosine(torch.stack([turn.gradient for turn in made])) if asked.turns else None
    moved = (
        changes(place, estimator, asked.marks, first_turn=asked.turns, before=before, told=told) if asked.marks else []
    )
    return Row(estimator.title, estimator.overrides, made[0].updates, cosine, made[0].learner, actors, moved)


@contextmanager
def _progress(of: int) -> Iterator[Callable[[], None]]:
    with counted("turns and updates") as show:
        done = 0

        def told() -> None:
            nonlocal done
            done += 1
            show(done, of)

        yield told


def _asked(args: argparse.Namespace) -> Asked:
    """Raises UserError for an unknown estimator or numbers out of range."""
    if unknown := [name for name in args.names if name not in ESTIMATORS]:
        raise UserError(f"there is no estimator {unknown[0]!r}; there are {', '.join(ESTIMATORS)}")
    if args.turns and args.turns < LEAST_TURNS:
        raise UserError(f"--turns must be 0, or at least {LEAST_TURNS} for a standard error, got {args.turns}")
    if sorted(set(args.updates)) != args.updates or any(mark < 1 for mark in args.updates):
        raise UserError(f"--updates must ascend from 1 or more, got {' '.join(map(str, args.updates))}")
    if not 2 <= args.images <= 10**6 or args.turns < 0:  # noqa: PLR2004 - one image has no standard error
        raise UserError(f"--images must lie in [2, 1000000] and --turns be 0 or more, got {args.images}, {args.turns}")
    return Asked(args.turns, args.updates, args.images)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.estimators", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint, or of a run or job: its newest")
    parser.add_argument("names", nargs="*", metavar="ESTIMATOR", help=f"of {', '.join(ESTIMATORS)} (all)")
    parser.add_argument("--turns", type=int, default=24, help="RL turns for the cosine; 0: none (24)")
    parser.add_argument(
        "--updates", type=int, nargs="*", default=[12, 24], help="updates after which the checker is asked (12 24)"
    )
    parser.add_argument("--images", type=int, default=720, help="images that the checker looks at (720)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and noise (0)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings over the run's own")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (runs/bench/estimators-...)")
    return parser
