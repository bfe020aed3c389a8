"""The reward station: the discriminator scores every state that a trajectory reached, in logits.

Level j = 1..K-1 is judged as it is, at its own noise level. The final latent (level K) is judged at a few small
noise levels and the logits are averaged; that noise is shared by the whole group, so it cannot decide who wins.
Logits, not probabilities: a saturated sigmoid would hide differences. The levels are our choice.

An oracle in its place looks at the decoded final image and says nothing of the intermediate states. It knows what a
discriminator can only estimate, so it bounds from above what RL can gain; a run with it is a diagnostic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.seeds import noise
from advdmd_ray.losses.advantage import group_summary
from advdmd_ray.losses.adversarial import pair_agreement
from advdmd_ray.losses.fake_score import noised
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import GroupInfo, LoadReport, ScoredGroup, TrajectoryGroup
from advdmd_ray.stations.weights.loading import VersionedModule
from advdmd_ray.stations.weights.snapshot import Snapshot

# A network that gives one logit per state, from (x, t, conditioning); a module or its engine.
Critic: TypeAlias = Callable[[Tensor, Tensor, Conditioning], Tensor]
# Scores of images `[n, C, H, W]` in [-1, 1] of one prompt, from (images, prompt): `[n]`, finite.
ImageScore: TypeAlias = Callable[[Tensor, str], Tensor]
# One that knows how well an image shows its prompt, in [0, 1]; no network's guess.
Oracle: TypeAlias = ImageScore
RewardSource: TypeAlias = Literal["discriminator", "oracle", "nobody"]


@dataclass(frozen=True, slots=True)
class FinalScorer:
    """What scores final images, an oracle or a user's own reward, with the way from latents to them.

    Attributes:
        decode: Turns latents `[n, c, h, w]` into images `[n, C, H, W]` in [-1, 1].
        score: Scores the images.
    """

    decode: Callable[[Tensor], Tensor]
    score: ImageScore

    def scores(self, final: Float[Tensor, "n c h w"], prompt: str) -> Float[Tensor, " n"]:
        """Of each final latent."""
        return self.score(self.decode(final), prompt).float()


def judged_states(
    latents: Float[Tensor, "n k1 c h w"],
    sigmas: Float[Tensor, " k1"],
    final_levels: Sequence[float],
    final_noise: Float[Tensor, "f c h w"],
) -> tuple[Float[Tensor, "n s c h w"], Float[Tensor, " s"]]:
    """The states that the discriminator sees and their noise levels, s = K - 1 + f.

    Args:
        latents: States from pure noise to the final latent.
        sigmas: Their levels; the last is 0.
        final_levels: f levels in [0, 1) at which the final latent is judged.
        final_noise: One noise per final level, shared by all n.
    """
    levels = torch.tensor(list(final_levels), dtype=torch.float32)
    count = levels.numel()
    final = latents[:, -1:].expand(-1, count, -1, -1, -1).flatten(0, 1)
    eps = final_noise.expand(latents.shape[0], -1, -1, -1, -1).flatten(0, 1)
    blurred = noised(final, eps, levels.repeat(latents.shape[0])).unflatten(0, (-1, count))
    return torch.cat([latents[:, 1:-1], blurred], dim=1), torch.cat([sigmas[1:-1], levels])


def level_scores(logits: Float[Tensor, "n s"], intermediate: int) -> Float[Tensor, "n k"]:
    """One score per level 1..K: the intermediate logits as they are, then the mean over the final levels."""
    return torch.cat([logits[:, :intermediate], logits[:, intermediate:].mean(dim=1, keepdim=True)], dim=1)


def score_states(
    discriminator: Critic,
    table: PromptTable,
    prompt_ids: Int[Tensor, " n"],
    states: Float[Tensor, "n s c h w"],
    levels: Float[Tensor, " s"],
) -> Float[Tensor, "n s"]:
    """The discriminator's logit of each of n x s states, each row with its prompt, in one forward."""
    samples, count = states.shape[:2]
    conditioning = table.rows(prompt_ids.repeat_interleave(count))
    logits = discriminator(states.flatten(0, 1), levels.repeat(samples), conditioning)
    return logits.float().unflatten(0, (samples, count))


def final_noise_of(latent_shape: Sequence[int], seed: int, count: int) -> Float[Tensor, "f c h w"]:
    """The noise of the final levels; `seed` is the first sample's, so it belongs to the group."""
    return noise((count, *latent_shape), seed, "final_level")


def group_info(scored: ScoredGroup, size_bytes: int) -> GroupInfo:
    """What the buffer's index and every learner rank must know of a scored group."""
    summary = group_summary(torch.tensor(scored.rewards))
    own = None if scored.extra is None else group_summary(torch.tensor(scored.extra)[:, None])
    return GroupInfo(
        ordinal=scored.group.ordinal,
        prompt_id=scored.group.prompt_id,
        seed=int(scored.group.seeds[0]),
        samples=summary.count,
        policy_version=scored.group.policy_version,
        reward_version=scored.reward_version,
        size_bytes=size_bytes,
        reward_mean=summary.mean,
        reward_m2=summary.m2,
        agreement=scored.agreement,
        extra=None if own is None else (own.mean[0], own.m2[0]),
    )


class RewardWorker:
    """Holds one version of the discriminator and scores whole groups with it, or with an oracle.

    Args:
        name: Such as `reward-0`.
        discriminator: The network; its weights come with snapshots.
        table: Encoded prompts.
        final_levels: Noise levels at which the discriminator judges the final latent.
        source: Who scores. The discriminator costs nothing where it does not.
        oracle: Needed where the oracle scores or is compared with.
        agreement: Whether to measure how far discriminator and oracle order a group alike, whoever gives the rewards.
        extra: The user's own reward, if there is one: it scores beside whoever gives the rewards.
        base_digest: Digest of the teacher on this worker's disk.

    Attributes:
        name: As given.
        device: Where the network is.

    Raises:
        ValueError: if the oracle is needed and there is none.
    """

    def __init__(
        self,
        name: str,
        discriminator: nn.Module,
        table: PromptTable,
        *,
        final_levels: Sequence[float],
        source: RewardSource = "discriminator",
        oracle: FinalScorer | None = None,
        agreement: bool = False,
        extra: FinalScorer | None = None,
        base_digest: str | None = None,
    ) -> None:
        if oracle is None and (source == "oracle" or agreement):
            raise ValueError(f"{name}: the oracle is to score, but there is none; give one")
        self.name = name
        self._source, self._agreement, self._extra = source, agreement, extra
        self._oracle = oracle if source == "oracle" or agreement else None
        self._network = VersionedModule(name, discriminator, base_digest)
        self.device = next(discriminator.parameters()).device
        self._table = table
        self._final_levels = tuple(final_levels)

    def load(self, snapshot: Snapshot) -> LoadReport | None:
        """Loads the snapshot unless its version already runs; the report's digest is of what was loaded.

        Raises:
            WeightsMismatchError: if the loaded bytes differ from the manifest.
        """
        return self._network.load(snapshot)

    @torch.no_grad()
    def score(self, group: TrajectoryGroup) -> ScoredGroup:
        """Scores every level 1..K of every trajectory, with one discriminator version or the oracle.

        An oracle's reward is that of level K; the levels before have 0. Where nobody scores, all are 0. A user's own
        reward is beside them, of the final image.

        Raises:
            ValueError: if no discriminator was loaded yet.
            UserError: if the user's own reward breaks its contract.
        """
        if self._network.version is None:
            raise ValueError(f"{self.name} has no discriminator yet; load a snapshot first")
        latents = torch.from_dlpack(group.latents)  # where they lie: memory that must not be written
        nothing = torch.zeros(latents.shape[0], latents.shape[1] - 1)
        judged = self._judged(group, latents) if self._source == "discriminator" or self._agreement else nothing
        rewards, agreement, prompt = judged, (), self._table.texts[group.prompt_id]
        if self._oracle is not None:
            truth = self._oracle.scores(latents[:, -1], prompt)
            if self._agreement:
                agreement = tuple(pair_agreement(judged, truth).tolist())
            if self._source == "oracle":
                rewards = torch.cat([nothing[:, :-1], truth.unsqueeze(1)], dim=1)
        own = None if self._extra is None else self._extra.scores(latents[:, -1], prompt)
        extra = None if own is None else own.numpy()
        return ScoredGroup(group, rewards.numpy(), self._network.version, agreement, extra)

    def _judged(self, group: TrajectoryGroup, latents: Float[Tensor, "n k1 c h w"]) -> Float[Tensor, "n k"]:
        """The discriminator's logit of every level."""
        final_noise = final_noise_of(latents.shape[2:], int(group.seeds[0]), len(self._final_levels))
        prompt_ids = torch.full((len(latents),), group.prompt_id)
        states, levels = judged_states(latents, torch.tensor(group.sigmas), self._final_levels, final_noise)
        logits = score_states(self._network.module, self._table, prompt_ids, states, levels)
        return level_scores(logits, intermediate=latents.shape[1] - 2)
