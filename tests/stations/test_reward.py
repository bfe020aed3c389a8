"""The reward station: which states are judged, at which levels, and what the index learns of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.seeds import noise
from advdmd_ray.stations.records import ScoredGroup, TrajectoryGroup
from advdmd_ray.stations.reward import (
    FinalScorer,
    RewardSource,
    RewardWorker,
    final_noise_of,
    group_info,
    judged_states,
    level_scores,
)
from advdmd_ray.stations.weights.snapshot import pack
from small_parts import (
    PROMPTS,
    SHAPE,
    SIGMAS,
    Brightness,
    Judge,
    Mixer,
    brightness_oracle,
    lease,
    normal,
    reward_worker,
    rollout_worker,
    table,
)

FINAL = (0.05, 0.2)


def _group(seed: int = 0) -> TrajectoryGroup:
    return rollout_worker(Mixer(seed)).generate(lease(2))


def test_intermediate_states_are_judged_as_they_are_and_the_final_one_at_small_levels() -> None:
    latents, eps = normal(3, 4, *SHAPE, seed=1), normal(2, *SHAPE, seed=2)
    states, levels = judged_states(latents, SIGMAS, FINAL, eps)
    torch.testing.assert_close(levels, torch.tensor([0.6, 0.3, 0.05, 0.2]))
    torch.testing.assert_close(states[:, :2], latents[:, 1:3])
    for index, level in enumerate(FINAL):
        for sample in range(3):
            expected = (1 - level) * latents[sample, 3] + level * eps[index]
            torch.testing.assert_close(states[sample, 2 + index], expected)


def test_the_final_score_is_the_mean_logit_over_its_levels() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 5.0]])
    torch.testing.assert_close(level_scores(logits, intermediate=2), torch.tensor([[1.0, 2.0, 4.0]]))


class LevelReader(nn.Module):
    """A critic that answers with the level it is told, the prompt it is told, and the mean of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self.unit * (100 * t + 1000 * conditioning.pooled[:, 0] + x.mean(dim=(1, 2, 3)))


def test_every_state_is_judged_at_its_own_level_and_for_its_own_prompt() -> None:
    group = _group()
    scored = reward_worker(LevelReader(), final_levels=FINAL).score(group)
    prompt = 1000 * float(table().rows(torch.arange(3)).pooled[group.prompt_id, 0])
    eps = noise((2, *SHAPE), int(group.seeds[0]), "final_level").numpy()
    for sample in range(4):
        states = group.latents[sample]
        final = [(1 - s) * states[3].mean() + s * eps[i].mean() for i, s in enumerate(FINAL)]
        expected = [60 + states[1].mean(), 30 + states[2].mean(), 100 * np.mean(FINAL) + np.mean(final)]
        np.testing.assert_allclose(scored.rewards[sample] - prompt, expected, atol=2e-3)


def test_equal_trajectories_get_equal_scores_because_the_final_noise_is_the_groups() -> None:
    group = _group()
    same = np.repeat(group.latents[:1], 4, axis=0)
    twins = TrajectoryGroup(group.ordinal, group.prompt_id, 0, group.seeds, group.sigmas, same, group.means, group.stds)
    rewards = reward_worker(Judge(3)).score(twins).rewards
    np.testing.assert_allclose(rewards, np.repeat(rewards[:1], 4, axis=0), rtol=1e-6, atol=1e-6)


def test_the_final_noise_belongs_to_the_group() -> None:
    torch.testing.assert_close(final_noise_of(SHAPE, 7, 2), final_noise_of(SHAPE, 7, 2))
    assert not torch.allclose(final_noise_of(SHAPE, 7, 2), final_noise_of(SHAPE, 8, 2))
    first, second = final_noise_of(SHAPE, 7, 2)
    assert not torch.allclose(first, second)


def test_a_critic_that_likes_bright_states_ranks_them_so() -> None:
    group = _group()
    rewards = reward_worker(Brightness()).score(group).rewards
    bright = group.latents[:, 1:3].mean(axis=(2, 3, 4))
    np.testing.assert_allclose(rewards[:, :2], bright, rtol=1e-5, atol=1e-6)
    assert (np.argsort(rewards[:, 2]) == np.argsort(group.latents[:, 3].mean(axis=(1, 2, 3)))).all()


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.floats(-50, 50, width=32)))
def test_the_index_learns_the_moments_of_every_level(rewards: np.ndarray) -> None:
    group = _group()
    info = group_info(ScoredGroup(group, rewards, 6), 123)
    assert (info.ordinal, info.prompt_id, info.samples) == (2, 2, len(rewards))
    assert (info.policy_version, info.reward_version, info.size_bytes) == (0, 6, 123)
    wide = rewards.astype(np.float64)
    np.testing.assert_allclose(info.reward_mean, wide.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(info.reward_m2, wide.var(axis=0) * len(rewards), atol=1e-6)


def test_a_reward_worker_without_weights_says_so() -> None:
    worker = RewardWorker("reward-1", Judge(1), table(), final_levels=FINAL)
    with pytest.raises(ValueError, match=r"reward-1 has no discriminator yet"):
        worker.score(_group())


def test_a_new_discriminator_changes_the_scores_and_their_version() -> None:
    worker, group = reward_worker(Judge(1)), _group()
    before = worker.score(group)
    snapshot = pack("discriminator", 1, dict(Judge(2).named_parameters()))
    report = worker.load(snapshot)
    assert report is not None
    assert (report.digest, report.stream) == (snapshot.manifest.digest, "discriminator")
    assert worker.load(snapshot) is None
    after = worker.score(group)
    assert (before.reward_version, after.reward_version) == (0, 1)
    assert not np.allclose(before.rewards, after.rewards)
    assert after.group is group


class Unasked(nn.Module):
    """A critic that must not be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        raise AssertionError("the discriminator was asked")


def test_an_oracle_sees_the_decoded_final_images_and_the_words_of_their_prompt() -> None:
    seen: list[tuple[Tensor, str]] = []

    def oracle(images: Tensor, prompt: str) -> Tensor:
        seen.append((images, prompt))
        return torch.tensor([0.0, 0.5, 1.0, 0.25])

    group = _group()
    spy = FinalScorer(decode=lambda latents: -3 * latents, score=oracle)
    scored = reward_worker(Unasked(), source="oracle", oracle=spy).score(group)
    ((images, prompt),) = seen
    np.testing.assert_array_equal(images.numpy(), -3 * group.latents[:, -1])
    assert prompt == PROMPTS[group.prompt_id]
    np.testing.assert_array_equal(scored.rewards[:, -1], [0.0, 0.5, 1.0, 0.25])
    np.testing.assert_array_equal(scored.rewards[:, :-1], 0.0)
    assert scored.reward_version == 0


def test_where_nobody_scores_every_reward_is_zero_and_the_discriminator_rests() -> None:
    rewards = reward_worker(Unasked(), source="nobody").score(_group()).rewards
    assert rewards.shape == (4, 3)
    assert not rewards.any()


@pytest.mark.parametrize("source", ["oracle", "nobody"])
def test_whoever_scores_the_groups_are_those_of_one_loaded_version(source: RewardSource) -> None:
    oracle = brightness_oracle()
    worker = RewardWorker("reward-1", Judge(1), table(), final_levels=FINAL, source=source, oracle=oracle)
    with pytest.raises(ValueError, match=r"reward-1 has no discriminator yet"):
        worker.score(_group())


def test_a_worker_that_lacks_its_oracle_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reward-1: the oracle is to score, but there is none"):
        RewardWorker("reward-1", Judge(1), table(), final_levels=FINAL, source="oracle")


@pytest.mark.parametrize(("gain", "final"), [(1.0, 1.0), (-1.0, 0.0)])
@pytest.mark.parametrize("source", ["discriminator", "oracle"])
def test_agreement_compares_each_levels_order_with_the_oracles(gain: float, final: float, source: RewardSource) -> None:
    group = _group()
    worker = RewardWorker(
        "reward-0",
        Brightness(gain),
        table(),
        final_levels=FINAL,
        source=source,
        oracle=brightness_oracle(),
        agreement=True,
    )
    worker.load(pack("discriminator", 0, {"gain": torch.tensor(gain)}))
    scored = worker.score(group)
    assert scored.agreement[-1] == final  # the noise at the final levels is shared, so the order is the images' own
    means = group.latents.mean(axis=(2, 3, 4))
    pairs = [(a, b) for a in range(4) for b in range(4) if means[a, 3] > means[b, 3]]
    for level in (1, 2):
        alike = sum(gain * means[a, level] > gain * means[b, level] for a, b in pairs)
        assert scored.agreement[level - 1] == pytest.approx(alike / len(pairs))
    assert group_info(scored, 1).agreement == scored.agreement
    expected = reward_worker(Brightness(gain), final_levels=FINAL, source=source, oracle=brightness_oracle())
    np.testing.assert_array_equal(scored.rewards, expected.score(group).rewards)


def test_agreement_is_not_measured_unasked_and_not_without_an_oracle() -> None:
    assert reward_worker(Judge(1), oracle=brightness_oracle()).score(_group()).agreement == ()
    with pytest.raises(ValueError, match=r"there is none; give one"):
        RewardWorker("reward-1", Judge(1), table(), final_levels=FINAL, agreement=True)
