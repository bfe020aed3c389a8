"""A benchmark's images, drawn by Ray actors; what is there already is not drawn again."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray
import torch

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.folder_sampler import FolderSampler
from advdmd_ray.evaluation.place import place_of
from advdmd_ray.evaluation.suites.layout import Suite, SuitePrompt, claim_settings, missing, remove_drafts
from advdmd_ray.files import files_digest
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.runtime.calls import Handle
from advdmd_ray.runtime.cluster import met
from advdmd_ray.runtime.dealing import deal
from advdmd_ray.seeding import derive_seed

PROMPT_S = 1800.0
"""Nobody draws longer at the images of one prompt."""
RETRIES = 3


@dataclass(frozen=True, slots=True)
class SuiteSettings:
    """What the images of a benchmark hang on.

    Attributes:
        pipeline: Folder, or `builtin:NAME`.
        steps: None: the folder's own levels.
        guidance: None: the folder's own.
        height: Pixels; None: the folder's own size.
        width: As `height`.
        precision: float32 or bfloat16.
        seed: Image k of prompt i has the seed that (this, benchmark, i, k) name.
    """

    pipeline: str
    steps: int | None
    guidance: float | None
    height: int | None
    width: int | None
    precision: str
    seed: int

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width; None: the folder's own size."""
        return None if self.height is None or self.width is None else (self.height, self.width)


@ray.remote
class SuiteActor:
    """Holds the pipeline and draws the images of one prompt after the other."""

    def __init__(self, settings: SuiteSettings, threads: int) -> None:
        torch.set_num_threads(threads)
        self._sampler = FolderSampler(
            settings.pipeline,
            place_of("cuda" if ray.get_gpu_ids() else "cpu", settings.precision),
            steps=settings.steps,
            guidance=settings.guidance,
            pixels=settings.pixels,
        )

    def draw(self, text: str, seeds: list[int]) -> np.ndarray:
        """The images of one prompt, `[n, h, w, 3]` bytes."""
        return self._sampler.images([text] * len(seeds), seeds)


def default_gpus() -> float:
    """GPUs of an actor where nobody says: one, if torch sees one on this machine."""
    return float(torch.cuda.is_available())


def seeds_of(settings: SuiteSettings, suite: Suite, prompt: SuitePrompt) -> list[int]:
    """The seed of every image of a prompt."""
    return [derive_seed(settings.seed, suite.name, prompt.index, number) for number in range(suite.images)]


def draw_suite(
    suite: Suite,
    out: Path,
    settings: SuiteSettings,
    *,
    actors: int = 1,
    gpus_each: float = 0.0,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> int:
    """Draw what is missing of a benchmark and return how many prompts that were.

    Args:
        suite: The benchmark.
        out: Where its images go; their settings are beside it.
        settings: What the images hang on; a folder holds images of one kind only.
        actors: Ray actors that draw.
        gpus_each: GPUs of each.
        progress: Told how many of the prompts that were missing are done.

    Raises:
        UserError: if the folder holds images of other settings, weights or prompts, the pipeline is not whole or has no
            such size, or there are too few GPUs.
        DeadlineError: if no prompt is done for half an hour.
        WorkerLostError: if an actor dies again and again.
    """
    info = inspect_pipeline(settings.pipeline, settings.pixels)
    hangs_on = {
        "weights": files_digest([file for part in info.components for file in part.weight_files]),
        "prompts": hashlib.sha256(repr([(prompt.name, prompt.text) for prompt in suite.prompts]).encode()).hexdigest(),
    }
    claim_settings(out, {"suite": suite.name, "images": suite.images, **asdict(settings), **hangs_on})
    todo = missing(suite, out)
    progress(0, len(todo))
    if todo:
        with met(os.environ.get("RAY_ADDRESS"), None):
            there = ray.cluster_resources().get("GPU", 0.0)
            if gpus_each > there:
                raise UserError(f"--gpus-each {gpus_each:g}: Ray has {there:g} GPUs; lower it, or join a cluster")
            _draw(suite, out, settings, todo, min(actors, len(todo)), gpus_each, progress)
    remove_drafts(out)
    return len(todo)


def _draw(
    suite: Suite,
    out: Path,
    settings: SuiteSettings,
    todo: list[SuitePrompt],
    actors: int,
    gpus_each: float,
    progress: Callable[[int, int], None],
) -> None:
    threads = max(1, (os.cpu_count() or 1) // actors)
    made: Handle = SuiteActor.options(num_cpus=1, num_gpus=gpus_each, max_restarts=RETRIES, max_task_retries=RETRIES)
    # Kept, or Ray would end an actor that nobody names any more.
    team = [made.remote(settings, threads) for _ in range(actors)]
    dealt = deal(
        team,
        todo,
        lambda actor, prompt: actor.draw.remote(prompt.text, seeds_of(settings, suite, prompt)),
        lambda prompt: f"the images of prompt {prompt.name}",
        PROMPT_S,
    )
    for done, (prompt, images) in enumerate(dealt, start=1):
        suite.write(out, prompt, images)
        progress(done, len(todo))
