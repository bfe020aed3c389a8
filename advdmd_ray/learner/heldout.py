"""What is measured of the discriminator before a cycle's updates, on real images that it never learns from.

Two figures for each level 1..K, from the same forwards: the AUC, real against generated states, and the text agreement,
each state with its own text against the same state with a wrong one.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.seeds import derive_seed, noise, uniform
from advdmd_ray.errors import UserError
from advdmd_ray.learner.batch import LearnerBatch, Path
from advdmd_ray.learner.health import SIDES
from advdmd_ray.learner.setting import Setting
from advdmd_ray.losses.adversarial import auc
from advdmd_ray.losses.text_agreement import agreement_sums
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.reward import Critic, final_noise_of, judged_states, level_scores, score_states


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of this rank's groups.

    Attributes:
        auc: `[K]` mean of the groups' own AUCs: rewards are compared inside a group only, and a mean does not depend on
            how the groups are spread over ranks.
        texts: `[sides, 3, K]` sums over the groups, see `losses.text_agreement`; no side where texts are not compared.
    """

    auc: Float[Tensor, " k"]
    texts: Float[Tensor, "side 3 k"]


@dataclass(frozen=True, slots=True)
class TextPool:
    """Rows of the prompt table from which wrong texts are drawn; one may be there more than once.

    Attributes:
        rows: `[n]`, ordered by text.
        texts: `[n]` the number of each row's text, ascending.
    """

    rows: Int64[Tensor, " n"]
    texts: Int64[Tensor, " n"]

    @classmethod
    def of(cls, rows: Int64[Tensor, " n"], text_of: Int64[Tensor, " table"]) -> Self:
        """The pool of some rows, of a table whose row i has the text number `text_of[i]`."""
        order = text_of[rows].argsort(stable=True)
        return cls(rows[order], text_of[rows][order])

    @property
    def differs(self) -> bool:
        """Whether it has two texts."""
        return len(self.texts) > 0 and bool(self.texts[0] != self.texts[-1])

    def others(
        self, texts: Int64[Tensor, " b"], u: Float[Tensor, " b"]
    ) -> tuple[Int64[Tensor, " b"], Float[Tensor, " b"]]:
        """For each text a row of another one, uniformly, and the share of the pool that has another one.

        Weighted by that share, right and wrong texts have one and the same distribution if right ones are uniform over
        the pool: a discriminator that likes some texts better, whatever the image, is at chance.

        Args:
            texts: Numbers of the right texts.
            u: In [0, 1).

        Returns:
            Rows and weights; where there is no other text the weight is 0 and the row means nothing.
        """
        first = torch.searchsorted(self.texts, texts, right=False)
        own = torch.searchsorted(self.texts, texts, right=True) - first
        count = len(self.texts) - own
        place = (u.double() * count).long()
        place = torch.where(place >= first, place + own, place).clamp(max=len(self.texts) - 1)
        return self.rows[place], count / len(self.texts)


class HeldOut:
    """Measures a discriminator on held-out real images and on the student's states.

    Args:
        setting: What the objectives share.

    Raises:
        UserError: if texts are to be compared, and all prompts, or all held-out images, have the same.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._compares = setting.config.measures_text
        table, real = setting.table, setting.real_heldout
        self._text_of = _numbers(table)
        # Wrong texts are of the kind of the right ones: prompts, those of them with held-out images, or captions.
        prompts = torch.arange(table.rollouts)
        captions = real.prompt_ids[real.rows].long()
        self._prompts = TextPool.of(prompts, self._text_of)
        self._pictured = TextPool.of(prompts[torch.isin(prompts, captions)], self._text_of)
        self._captions = TextPool.of(captions, self._text_of)
        if self._compares:
            _require_two("the prompts of rollouts", self._prompts)
            _require_two("the held-out real images", self._captions)

    @torch.no_grad()
    def measure(self, discriminator: Critic, batch: LearnerBatch, path: Path) -> Measured:
        """Judges fresh trajectories and held-out real latents exactly as the reward workers judge, group by group."""
        setting = self._setting
        rows, steps = min(setting.config.discriminator.auc_rows, batch.samples), batch.steps
        areas, sums = [], []
        for index, seed in enumerate(batch.group_seeds):
            prompt_ids = batch.prompt_ids[index].expand(rows)
            trajectories, real_prompts = _real_trajectories(setting.real_heldout, batch, prompt_ids, seed, path)
            both = torch.cat([trajectories, batch.latents[index, :rows]])
            texts, weights = torch.cat([real_prompts, prompt_ids]), None
            if self._compares:
                others, weights = self._others(prompt_ids, real_prompts, seed, path)
                both, texts = both.repeat(2, 1, 1, 1, 1), torch.cat([texts, others])
            final_levels = setting.config.reward.final_levels
            final_noise = final_noise_of(batch.latent_shape, seed, len(final_levels))
            states, t = judged_states(both, batch.sigmas, final_levels, final_noise)
            scores = level_scores(score_states(discriminator, setting.table, texts, states, t), steps - 1)
            true, fake, *wrong = scores.split(rows)
            areas.append(torch.stack([auc(true[:, level], fake[:, level]) for level in range(steps)]))
            if weights is not None:
                pairs = zip((true, fake), wrong, weights.split(rows), strict=True)
                sums.append(torch.stack([agreement_sums(*pair) for pair in pairs]))
        nothing = torch.zeros(0, 3, steps, dtype=torch.float64)
        return Measured(torch.stack(areas).mean(dim=0), torch.stack(sums).sum(dim=0) if sums else nothing)

    def _others(
        self, prompt_ids: Int64[Tensor, " r"], real_prompts: Int64[Tensor, " r"], seed: int, path: Path
    ) -> tuple[Int64[Tensor, " b"], Float[Tensor, " b"]]:
        """Rows of wrong texts and their weights: of the real images, then of the student's states."""
        drawn = uniform((len(SIDES), len(prompt_ids)), seed, *path, "wrong texts")
        # An image of the prompt that was asked for is a draw among prompts; any other, a draw among held-out images.
        asked = real_prompts == prompt_ids
        texts = self._text_of[real_prompts]
        captioned, by_caption = self._captions.others(texts, drawn[0])
        if not bool(asked.any()):
            real, by_real = captioned, by_caption
        else:
            pictured, by_prompt = self._pictured.others(texts, drawn[0])
            real, by_real = torch.where(asked, pictured, captioned), torch.where(asked, by_prompt, by_caption)
        student, by_student = self._prompts.others(self._text_of[prompt_ids], drawn[1])
        return torch.cat([real, student]), torch.cat([by_real, by_student])


def _real_trajectories(
    real: RealImages, batch: LearnerBatch, prompt_ids: Int64[Tensor, " r"], seed: int, path: Path
) -> tuple[Float[Tensor, "r k1 c h w"], Int64[Tensor, " r"]]:
    """Held-out real latents noised to every level of a trajectory, each with a noise of its own, and their prompts."""
    draws = noise((len(prompt_ids), batch.steps, *batch.latent_shape), seed, *path, "auc")
    clean, real_prompts = real.drawn(prompt_ids, derive_seed(seed, *path, "auc"))
    levels = batch.sigmas[:-1].reshape(1, -1, 1, 1, 1)
    noisy = (1 - levels) * clean.unsqueeze(1) + levels * draws
    return torch.cat([noisy, clean.unsqueeze(1)], dim=1), real_prompts


def _numbers(table: PromptTable) -> Int64[Tensor, " table"]:
    """A number for the text of each row, the same for the same text."""
    number: dict[str, int] = {}
    return torch.tensor([number.setdefault(text, len(number)) for text in table.texts])


def _require_two(what: str, pool: TextPool) -> None:
    if not pool.differs:
        raise UserError(
            f"{what} have one text only, so nothing shows whether the discriminator reads it; give more prompts with "
            "real images, or set discriminator.text_errors=null"
        )
