"""The prompt stream: which prompt and seed an ordinal asks for, as a pure function of the run's seed."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from advdmd_ray.seeding import derive_seed


@dataclass(frozen=True, slots=True)
class Work:
    """What an ordinal asks for.

    Attributes:
        prompt_id: Row of the prompt table.
        seed: Seed of the group.
    """

    prompt_id: int
    seed: int


@lru_cache(maxsize=8)
def epoch_order(run_seed: int, prompts: int, epoch: int) -> Int64[np.ndarray, " prompts"]:
    """Prompt ids in the order of one epoch: the ranks of `prompts` 64-bit draws seeded by (run_seed, epoch).

    Raw draws of a numpy bit generator keep their values over numpy versions, unlike `Generator.permutation`.
    """
    draws = np.random.PCG64(derive_seed(run_seed, "prompt_order", epoch)).random_raw(prompts)
    order = np.argsort(draws, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def work_of(run_seed: int, prompts: int, ordinal: int, substitution: int = 0) -> Work:
    """Prompt and seed of an ordinal: `prompt = epoch_order(run_seed, prompts, o // prompts)[o % prompts]`.

    A substitute has another place p in the same order, and a seed of its own. The first one's is drawn of the places
    that are not o's, and each further one takes the next of them: for substitution n >= 1
    `p = (o + 1 + (draw + n - 1) % (prompts - 1)) % prompts`. So of `prompts` works
    of one ordinal no two have the same prompt.

    A pure function of its arguments: who asks, when and how often makes no difference.

    Args:
        run_seed: Seed of the run.
        prompts: Rows of the prompt table.
        ordinal: Position in the prompt stream.
        substitution: How often the ordinal's prompt was replaced.

    Raises:
        ValueError: for a negative ordinal or substitution, or an empty prompt table.
    """
    if prompts < 1 or ordinal < 0 or substitution < 0:
        raise ValueError(
            f"work needs prompts >= 1, ordinal >= 0 and substitution >= 0, got {prompts}, {ordinal} and {substitution}"
        )
    epoch, position = divmod(ordinal, prompts)
    if not substitution:
        return Work(int(epoch_order(run_seed, prompts, epoch)[position]), derive_seed(run_seed, "group", ordinal))
    others = max(prompts - 1, 1)  # of a single prompt only the seed can be another
    step = 1 + (derive_seed(run_seed, "substitute", ordinal) + substitution - 1) % others
    seed = derive_seed(run_seed, "group", ordinal, "substitute", substitution)
    return Work(int(epoch_order(run_seed, prompts, epoch)[(position + step) % prompts]), seed)


def size_of(run_seed: int, cycle: int, weights: Sequence[float]) -> int:
    """Number of the size that the images of a cycle have: `P(i) = weights[i] / sum(weights)`, drawn for each cycle.

    A pure function of its arguments, so that the groups of a cycle are of one size whoever makes them.

    Args:
        run_seed: Seed of the run.
        cycle: The learner's, counted from 0.
        weights: At least one, each 0 or more, one of them above.

    Raises:
        ValueError: for a negative cycle, or weights of which none is above 0.
    """
    bounds = list(itertools.accumulate(weights))
    if cycle < 0 or not bounds or not bounds[-1] > 0 or min(weights) < 0:
        raise ValueError(f"a size needs cycle >= 0 and weights >= 0 of which one is above, got {cycle} and {weights}")
    if len(bounds) == 1:
        return 0
    drawn = derive_seed(run_seed, "size", cycle) / 2**63 * bounds[-1]
    return min(bisect.bisect_right(bounds, drawn), bisect.bisect_left(bounds, bounds[-1]))
