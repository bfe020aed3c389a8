"""A benchmark's images, drawn by Ray actors; what is there already is not drawn again."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray
import torch

from advdmd_ray.evaluation.folder_sampler import LENGTH_SAID, FolderSampler, settings_of
from advdmd_ray.evaluation.place import place_of
from advdmd_ray.evaluation.suites.layout import (
    Suite,
    SuitePrompt,
    check_settings,
    claim_settings,
    missing,
    remove_drafts,
)
from advdmd_ray.files import files_digest
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_pipeline
from advdmd_ray.models.text import cut_texts, tell_cut
from advdmd_ray.runtime.calls import PULSE, Handle
from advdmd_ray.runtime.cluster import met
from advdmd_ray.runtime.dealing import deal, hired
from advdmd_ray.runtime.pulsed import Pulsed
from advdmd_ray.runtime.team import Team, team_here
from advdmd_ray.seeding import derive_seed

PROMPT_S = 1800.0
"""Nobody draws longer at the images of one prompt."""


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


@ray.remote(concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class SuiteActor(Pulsed):
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

    def ready(self) -> None:
        """Answers once there is room for the actor."""

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
    actors: int | None = None,
    gpus_each: float = 0.0,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> int:
    """Draw what is missing of a benchmark and return how many prompts that were.

    Args:
        suite: The benchmark.
        out: Where its images go; their settings are beside it.
        settings: What the images hang on; a folder holds images of one kind only.
        actors: Ray actors that draw; None: one for each GPU that Ray has, or where it has none for each node.
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
    made_with = {"suite": suite.name, "images": suite.images, **asdict(settings), **hangs_on}
    check_settings(out, made_with)
    todo = missing(suite, out)
    progress(0, len(todo))
    if todo:
        texts = [prompt.text for prompt in suite.prompts]
        tokenizers, length = load_pipeline(settings.pipeline, parts="tokenizers"), settings_of(info).max_sequence_length
        tell_cut(cut_texts(tokenizers, texts, length), len(texts), LENGTH_SAID)
        with met(os.environ.get("RAY_ADDRESS"), None):
            team = team_here(len(todo), actors, gpus_each)
            claim_settings(out, made_with)
            _draw(suite, out, settings, todo, team, progress)
    else:
        claim_settings(out, made_with)
    remove_drafts(out)
    return len(todo)


def _draw(
    suite: Suite,
    out: Path,
    settings: SuiteSettings,
    todo: list[SuitePrompt],
    team: Team,
    progress: Callable[[int, int], None],
) -> None:
    threads = max(1, (os.cpu_count() or 1) // team.actors)
    kind: Handle = SuiteActor
    made = kind.options(num_cpus=team.num_cpus, num_gpus=team.num_gpus)
    with hired(lambda: made.remote(settings, threads), team.actors) as actors:
        dealt = deal(
            actors,
            todo,
            lambda actor, prompt: actor.draw.remote(prompt.text, seeds_of(settings, suite, prompt)),
            lambda prompt: f"the images of prompt {prompt.name}",
            PROMPT_S,
            lambda actor: actor.ready.remote(),
        )
        for done, (prompt, images) in enumerate(dealt, start=1):
            suite.write(out, prompt, images)
            progress(done, len(todo))
