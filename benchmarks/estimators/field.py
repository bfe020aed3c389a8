"""Where estimators compete: the networks of one checkpoint, a discriminator that stays as it is, turns of trajectories.

Every draw belongs to the seed and the number of the turn or of the image: all estimators meet the same prompts and the
same noise.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.config.layers import Layer, layer_of, resolve
from advdmd_ray.controller.prompt_order import Work, work_of
from advdmd_ray.diffusion.kernels import stochastic_steps
from advdmd_ray.diffusion.sampling import rollout, sample
from advdmd_ray.diffusion.seeds import derive_seed, group_noise
from advdmd_ray.learner.batch import LearnerBatch
from advdmd_ray.learner.setting import Setting
from advdmd_ray.stations.reward import FinalScorer, final_noise_of, judged_states, level_scores, score_states
from advdmd_ray.stations.rollout import sample_seeds

IMAGES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Forwards:
    """Rows that went forward through a network; a backward pass costs about two more.

    Attributes:
        student: Through the student.
        discriminator: Through the discriminator.
    """

    student: int = 0
    discriminator: int = 0

    def __add__(self, other: Self) -> Self:
        """Of both together."""
        return type(self)(self.student + other.student, self.discriminator + other.discriminator)

    def __sub__(self, other: Self) -> Self:
        """What came after `other`."""
        return type(self)(self.student - other.student, self.discriminator - other.discriminator)


class Counter:
    """Counts the rows of all forward passes of two networks from now on."""

    def __init__(self, student: nn.Module, discriminator: nn.Module) -> None:
        self._rows: dict[str, int] = dict.fromkeys(("student", "discriminator"), 0)
        student.register_forward_hook(lambda _, inputs, __: self._count("student", inputs[0]))
        discriminator.register_forward_hook(lambda _, inputs, __: self._count("discriminator", inputs[0]))

    def _count(self, network: str, x: Tensor) -> None:
        self._rows[network] += len(x)

    @property
    def so_far(self) -> Forwards:
        """Since the beginning."""
        return Forwards(**self._rows)


@dataclass(frozen=True, slots=True)
class Field:
    """The networks and what is asked of them.

    Attributes:
        setting: Configuration, prompts, kernel and levels.
        student: Learns; RL's updates move it, `kept` puts it back.
        discriminator: Scores, and learns nothing.
        latent_shape: (c, h, w).
        oracle: The exact checker.
        seed: Names all draws.
        forwards: Counts.
    """

    setting: Setting
    student: nn.Module
    discriminator: nn.Module
    latent_shape: tuple[int, int, int]
    oracle: FinalScorer
    seed: int
    forwards: Counter

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.setting.config

    def under(self, overrides: Mapping[str, Any], source: str) -> Self:
        """The same networks under other settings, `section.key: value`.

        Raises:
            UserError: for settings that are wrong, or contradict the checkpoint's; the line begins with `source`.
        """
        layers = [Layer("the checkpoint's settings", self.config.model_dump()), layer_of(source, overrides)]
        return dataclasses.replace(self, setting=dataclasses.replace(self.setting, config=resolve(Config, layers)))

    @property
    def actions(self) -> int:
        """Steps that draw noise, m."""
        return stochastic_steps(self.setting.kernel, self.setting.sigmas)

    def works(self, number: int) -> list[Work]:
        """The prompts and seeds of one turn's groups."""
        groups = self.config.rollout.groups_per_cycle
        seed, prompts = derive_seed(self.seed, "turns"), self.setting.table.rollouts
        return [work_of(seed, prompts, number * groups + index) for index in range(groups)]

    @torch.no_grad()
    def turn(self, number: int) -> LearnerBatch:
        """The scored groups of one RL turn, made by the student as it is now."""
        setting, works, size = self.setting, self.works(number), self.config.rollout.group_size
        seeds = [seed for work in works for seed in sample_seeds(work.seed, size)]
        prompt_ids = torch.tensor([work.prompt_id for work in works])
        conditioning = setting.table.rows(prompt_ids.repeat_interleave(size))
        made = rollout(self.student, conditioning, setting.kernel, setting.sigmas, shape=self.latent_shape, seeds=seeds)
        shape = (len(works), size)
        return self.scored(
            prompt_ids, seeds[::size], made.latents.unflatten(0, shape), made.means.unflatten(0, shape), made.stds
        )

    @torch.no_grad()
    def scored(
        self,
        prompt_ids: Int64[Tensor, " g"],
        seeds: Sequence[int],
        latents: Float[Tensor, "g n k1 c h w"],
        means: Float[Tensor, "g n m c h w"],
        stds: Float[Tensor, " m"],
    ) -> LearnerBatch:
        """Groups of the student as it is, with the scores of their states.

        Args:
            prompt_ids: Of each group.
            seeds: Of each group, its first trajectory's.
            latents: All states.
            means: Of the actions.
            stds: Of the actions.
        """
        each = zip(latents, prompt_ids.tolist(), seeds, strict=True)
        return LearnerBatch(
            prompt_ids=prompt_ids,
            group_seeds=tuple(seeds),
            policy_ages=torch.zeros(len(prompt_ids), dtype=torch.int64),
            sigmas=self.setting.sigmas,
            latents=latents,
            means=means,
            stds=stds,
            rewards=torch.stack([self.scores(*group) for group in each]),
        )

    def scores(self, latents: Float[Tensor, "n k1 c h w"], prompt_id: int, seed: int) -> Float[Tensor, "n k"]:
        """The discriminator's logits of one group, as a reward worker makes them, with a graph where there is one.

        Args:
            latents: All states.
            prompt_id: Theirs.
            seed: The group's.
        """
        setting = self.setting
        levels = setting.config.reward.final_levels
        noise = final_noise_of(self.latent_shape, seed, len(levels))
        states, at = judged_states(latents, setting.sigmas, levels, noise)
        prompt_ids = torch.full((len(latents),), prompt_id)
        logits = score_states(self.discriminator, setting.table, prompt_ids, states, at)
        return level_scores(logits, intermediate=latents.shape[1] - 2)

    @torch.no_grad()
    def truth(self, batch: LearnerBatch) -> Float[Tensor, "g n"]:
        """The checker's score of every final image of a turn, in [0, 1]."""
        texts = self.setting.table.texts
        return torch.stack(
            [
                self.oracle.scores(final, texts[prompt_id])
                for final, prompt_id in zip(batch.latents[:, :, -1], batch.prompt_ids.tolist(), strict=True)
            ]
        )

    @torch.no_grad()
    def checked(self, images: int) -> Float[Tensor, " images"]:
        """The checker's score, in [0, 1], of images of the student as it is; the same prompts and noise each time."""
        setting, scores = self.setting, []
        works = [work_of(derive_seed(self.seed, "images"), setting.table.rollouts, index) for index in range(images)]
        for first in range(0, images, IMAGES_AT_ONCE):
            some = works[first : first + IMAGES_AT_ONCE]
            prompt_ids, seeds = torch.tensor([work.prompt_id for work in some]), [work.seed for work in some]
            x = group_noise(self.latent_shape, seeds, "initial")
            conditioning = setting.table.rows(prompt_ids)
            final = sample(self.student, conditioning, setting.kernel, setting.sigmas, x, seeds=seeds)
            scores += [
                self.oracle.scores(latent[None], setting.table.texts[prompt_id])
                for latent, prompt_id in zip(final, prompt_ids.tolist(), strict=True)
            ]
        return torch.cat(scores)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Puts the student's weights back in the end."""
        before = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        try:
            yield
        finally:
            self.student.load_state_dict(before)
