"""Estimators: from an RL turn to the losses of its updates. A new one is a class with `updates` and a line below."""

from collections.abc import Iterator, Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.diffusion.kernels import transition
from advdmd_ray.diffusion.seeds import noise
from advdmd_ray.learner.actions import Actions, minibatch_slices, strongest
from advdmd_ray.learner.batch import LearnerBatch
from advdmd_ray.learner.parts import LossPart, in_parts
from advdmd_ray.learner.policy import policy_means, policy_parts
from advdmd_ray.learner.signal import SMALLEST_STD, RewardSignal
from advdmd_ray.losses.advantage import advantages, nominal_scale
from advdmd_ray.losses.fake_score import noised
from advdmd_ray.losses.policy_gradient import step_weights
from benchmarks.estimators.branches import Branches
from benchmarks.estimators.estimator import Estimator, open_advantages, spread_of
from benchmarks.estimators.field import Field


class PolicyGradient(Estimator):
    """The learner's own: `policy_gradient` on the discriminator's scores, or on the checker's."""

    def updates(self, place: Field, batch: LearnerBatch) -> Iterator[list[LossPart]]:
        """See `Estimator`; as `Learner` makes them."""
        config = place.config.policy_gradient
        scaled = open_advantages(place, batch)
        if float(scaled.abs().max()) == 0:
            return
        actions = Actions.of(batch, scaled)
        if config.group_rows is not None:
            actions = actions.chosen(strongest(scaled, config.group_rows))
        for share in minibatch_slices(actions.advantages.shape[1], config.minibatches):
            yield policy_parts(place.student, place.setting, batch, actions.share(share), lambda _: None)


class ExactGradient(Estimator):
    """What the policy gradient estimates, without its noise: the discriminator's own gradient at the states reached.

    The score-function term of action k has the mean `E[A_k z_k] = std_k dA_k/dx_{k+1}` (Stein), with A_k as a function
    of the state that the action reached and of all that follows it by the same noise. So the loss
    `-mean_k u_k <dA_k/dx_{k+1}, mean_k> / numel` has the gradient of which that of `PolicyGradient` is an estimate, up
    to clipping and `(n - 1) / n`. It asks for a differentiable reward and a backward pass through discriminator and
    chain, so it is a bound and no rival. It learns from the first `rl_rows` trajectories of each group.
    """

    def updates(self, place: Field, batch: LearnerBatch) -> Iterator[list[LossPart]]:
        """See `Estimator`: one."""
        config, rows = place.config, place.config.rl_rows
        pulls = _pulls(place, batch, rows)
        actions = Actions.of(batch).share(slice(rows))
        weights = step_weights(batch.stds, config.policy_gradient.step_weight_power) / pulls[0, 0, 0].numel()

        def loss(part: slice) -> Tensor:
            means = policy_means(place.student, place.setting, batch, actions.share(part))
            return -(weights * (pulls[:, part] * means).flatten(3).sum(dim=3)).mean()

        most = place.setting.micro_batch
        together = pulls.shape[0] * pulls.shape[2]
        yield in_parts(loss, rows, None if most is None else max(1, most // together))


class ForwardProcess(Estimator):
    """RL on the forward process: flow matching on noised final images, weighted by their advantages.

    `mean A_i |v(x_t, t, c) - (eps - x0_i)|^2`, `x_t = (1 - t) x0_i + t eps`, at each intermediate level t of the
    student: the gradient at equal weights of AWM (arXiv 2509.25050), and of DiffusionNFT (arXiv 2509.16117) up to its
    weights. A_i is the advantage of the first action, that of the whole trajectory. It learns from the `rl_rows`
    trajectories of each group with the largest and smallest A, in one update, with fresh noise of each row and level.
    """

    def updates(self, place: Field, batch: LearnerBatch) -> Iterator[list[LossPart]]:
        """See `Estimator`: one."""
        whole = open_advantages(place, batch)[..., :1]
        if float(whole.abs().max()) == 0:
            return
        groups, levels = len(batch.prompt_ids), batch.steps - 1
        rows = place.config.rl_rows // 2 * 2
        chosen = strongest(whole, rows)[..., 0]
        at = torch.arange(groups).unsqueeze(1)
        x0 = batch.latents[at, chosen, -1].flatten(0, 1).repeat_interleave(levels, dim=0)
        gain = whole[at, chosen, 0].flatten().repeat_interleave(levels)
        prompts = batch.prompt_ids.repeat_interleave(rows * levels)
        t = batch.sigmas[1:-1].repeat(groups * rows)
        eps = torch.cat([noise((rows * levels, *batch.latent_shape), seed, "forward") for seed in batch.group_seeds])

        def loss(part: slice) -> Tensor:
            x = noised(x0[part], eps[part], t[part])
            velocity = place.student(x, t[part], place.setting.table.rows(prompts[part]))
            error = (velocity - (eps[part] - x0[part])).square().flatten(1).mean(dim=1)
            return (gain[part] * error).mean()

        yield in_parts(loss, len(t), place.setting.micro_batch)


def _level_shares(place: Field, batch: LearnerBatch) -> Float[Tensor, "k m"]:
    """What one logit more at level j adds to the advantage of action k, clip aside: `advantages` is linear."""
    config, spread = place.config.policy_gradient, spread_of(batch)
    scale = torch.maximum(spread, (config.std_floor * spread).clamp(min=SMALLEST_STD))
    weights = RewardSignal(place.config).level_weights
    unit = torch.eye(batch.steps).unsqueeze(0)
    response = advantages(unit, config.advantage, config.gamma, weights)[0]
    return response / scale.unsqueeze(1) / nominal_scale(config.advantage, config.gamma, weights)


def _pulls(place: Field, batch: LearnerBatch, rows: int) -> Float[Tensor, "g r m c h w"]:
    """`dA_k / dx_{k+1}` of each action of the first trajectories: all later states follow it by their own noise."""
    setting, count = place.setting, batch.stds.numel()
    groups = len(batch.prompt_ids)
    latents, means = batch.latents[:, :rows].flatten(0, 1), batch.means[:, :rows].flatten(0, 1)
    conditioning = setting.table.rows(batch.prompt_ids.repeat_interleave(rows))
    states = [latents[:, 0], latents[:, 1].clone().requires_grad_()]
    for step in range(1, batch.steps):
        x = states[-1]
        velocity = place.student(x, batch.sigmas[step].expand(len(x)), conditioning)
        reached = transition(setting.kernel, x, velocity, batch.sigmas[step], batch.sigmas[step + 1]).mean
        states.append(reached + (latents[:, step + 1] - means[:, step]) if step < count else reached)
    trajectories = torch.stack(states, dim=1).unflatten(0, (groups, rows))
    scored = zip(trajectories, batch.prompt_ids.tolist(), batch.group_seeds, strict=True)
    rewards = torch.cat([place.scores(*each) for each in scored])
    worth = (rewards @ _level_shares(place, batch)).sum(dim=0)
    pulls = [
        torch.autograd.grad(worth[action], states[action + 1], retain_graph=True, materialize_grads=True)[0]
        for action in range(count)
    ]
    return torch.stack(pulls, dim=1).unflatten(0, (groups, rows))


ALL_ROWS: Final = {"policy_gradient.group_rows": None, "policy_gradient.minibatches": 1}
# Of every action and along the noise, whatever the run of the checkpoint learns from.
ALL_ACTIONS: Final = {"policy_gradient.last_actions": None, "policy_gradient.direction": "noise"}
ALL_LEVELS: Final = {**ALL_ACTIONS, "policy_gradient.advantage": "reward_to_go"}
FINAL: Final = {**ALL_ACTIONS, "policy_gradient.advantage": "final_only"}
OWN_STEP: Final = {**ALL_ACTIONS, "policy_gradient.advantage": "own_step"}
END: Final = {"policy_gradient.direction": "end", "policy_gradient.minibatches": 1}
CHECKER: Final = {"reward.kind": "oracle"}
ESTIMATORS: Final[Mapping[str, Estimator]] = {
    "configured": PolicyGradient("as the checkpoint's run is configured"),
    "levels": PolicyGradient("all levels", ALL_LEVELS),
    "levels_all_rows": PolicyGradient("all levels, all rows in one update", ALL_LEVELS | ALL_ROWS),
    "final": PolicyGradient("final score alone", FINAL),
    "final_all_rows": PolicyGradient("final score alone, all rows in one update", FINAL | ALL_ROWS),
    "own_step": PolicyGradient("each step's own score", OWN_STEP),
    "checker": PolicyGradient("the checker as reward", FINAL | CHECKER),
    "shuffled": PolicyGradient("control: rewards shuffled", {"policy_gradient.shuffle_rewards": True}),
    "end": PolicyGradient("towards the ends of trajectories, all levels, one update", ALL_LEVELS | END),
    "end_final": PolicyGradient("towards the ends of trajectories, final score alone, one update", FINAL | END),
    "forward": ForwardProcess("forward process, all levels", ALL_LEVELS),
    "forward_final": ForwardProcess("forward process, final score alone", FINAL),
    "exact": ExactGradient("exact gradient of D, all levels", ALL_LEVELS),
    "exact_final": ExactGradient("exact gradient of D, final score alone", FINAL),
    "exact_own_step": ExactGradient("exact gradient of D at the state reached", OWN_STEP),
    "branches": Branches("6 states of 4 children", ALL_LEVELS),
    "branches_4x": Branches("6 states of 16 children", ALL_LEVELS, children=16),
    "branches_16x": Branches("6 states of 64 children", ALL_LEVELS, children=64),
    "branches_final": Branches("6 states of 4 children, final score alone", FINAL),
    "branches_4x_final": Branches("6 states of 16 children, final score alone", FINAL, children=16),
    "branches_16x_final": Branches("6 states of 64 children, final score alone", FINAL, children=64),
    "branches_antithetic": Branches("the same of 16 in pairs", FINAL, children=16, antithetic=True),
    "branches_own_later": Branches("the same of 16, later noise their own", FINAL, children=16, own_later=True),
}
