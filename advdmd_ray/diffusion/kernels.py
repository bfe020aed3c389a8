"""The one transition kernel of rollout, reward and learner, and its Gaussian densities.

Flow matching: `x_t = (1 - t) x0 + t eps`, the network predicts `v = eps - x0`. A step from t to t' < t is the
Gaussian `x_t' = mean + std z` with `z ~ N(0, I)`. Everything here is float32: a bfloat16 velocity is widened
before the step, for a rounded action would move its log-probability by more than a usual clip.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config.sections import DiffusionSection

KernelName: TypeAlias = Literal["renoise", "cps", "ode", "flow_sde"]
Level: TypeAlias = float | Float[Tensor, ""]
Std: TypeAlias = Float[Tensor, ""] | Float[Tensor, " b"]

# g = a sqrt(t / (1 - t)) of flow_sde is infinite at t = 1. Above this level the next one stands in for t in 1 - t:
# few-step schedules begin at 1, and a t held at 0.99 would throw the first state far off its noise level.
FLOW_SDE_MAX_T = 0.99


@dataclass(frozen=True, slots=True)
class Kernel:
    """How a student step goes from one noise level to the next.

    Attributes:
        name: `renoise` is cps with eta 1, `ode` is cps with eta 0 (an Euler step), `flow_sde` is Flow-GRPO's.
        eta: Share of fresh noise in `cps`, in [0, 1]; the other kernels do not read it.
        noise: a in `g = a sqrt(t / (1 - t))` of `flow_sde`, > 0; the other kernels do not read it.

    Raises:
        ValueError: if a value is out of range.
    """

    name: KernelName
    eta: float = 1.0
    noise: float = 0.7

    def __post_init__(self) -> None:
        if self.name not in ("renoise", "cps", "ode", "flow_sde"):
            raise ValueError(f"kernel must be renoise, cps, ode or flow_sde, got {self.name!r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta of a kernel must lie in [0, 1], got {self.eta}")
        if not 0 < self.noise < math.inf:
            raise ValueError(f"noise of a kernel must be a positive number, got {self.noise}")

    @classmethod
    def renoise(cls) -> "Kernel":
        """Fresh noise at every step: DMD2's backward simulation (arXiv 2405.14867)."""
        return cls("renoise")

    @classmethod
    def cps(cls, eta: float) -> "Kernel":
        """Coefficients-preserving sampling (arXiv 2509.05952) with a share `eta` of fresh noise."""
        return cls("cps", eta=eta)

    @classmethod
    def ode(cls) -> "Kernel":
        """Euler steps, no noise."""
        return cls("ode")

    @classmethod
    def flow_sde(cls, noise: float = 0.7) -> "Kernel":
        """Flow-GRPO's stochastic differential equation (arXiv 2505.05470) with noise scale `noise`."""
        return cls("flow_sde", noise=noise)

    @property
    def freshness(self) -> float:
        """The eta of the cps family that this kernel is; `flow_sde` is no member of it.

        Raises:
            ValueError: for `flow_sde`.
        """
        match self.name:
            case "renoise":
                return 1.0
            case "ode":
                return 0.0
            case "cps":
                return self.eta
            case "flow_sde":
                raise ValueError("flow_sde is not a member of the cps family and has no eta")

    @property
    def is_stochastic(self) -> bool:
        """Whether its steps above level 0 draw noise."""
        return self.name == "flow_sde" or self.freshness > 0


class Transition(NamedTuple):
    """The Gaussian of one step.

    Attributes:
        mean: `[b, c, h, w]` float32; carries the gradient of the velocity.
        std: `[]` float32, latent units, >= 0; one for the whole batch.
    """

    mean: Float[Tensor, "b c h w"]
    std: Float[Tensor, ""]


def kernel_of(section: DiffusionSection) -> Kernel:
    """The one transition kernel of the run."""
    return Kernel(section.kernel, eta=section.eta, noise=section.flow_sde_noise)


def _beside(t: float | Tensor, x: Tensor) -> Tensor:
    """`t` as float32, shaped so that one level per sample meets `x` of [b, c, h, w]."""
    level = torch.as_tensor(t, dtype=torch.float32)
    return level if level.ndim == 0 else level.to(x.device).reshape(-1, 1, 1, 1)


def clean_from_velocity(
    x: Float[Tensor, "b c h w"], velocity: Float[Tensor, "b c h w"], t: Level | Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """The clean latent that a velocity implies: `x0_hat = x_t - t v`."""
    return x.float() - _beside(t, x) * velocity.float()


def noise_from_velocity(
    x: Float[Tensor, "b c h w"], velocity: Float[Tensor, "b c h w"], t: Level | Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """The noise that a velocity implies: `eps_hat = x_t + (1 - t) v`."""
    return x.float() + (1 - _beside(t, x)) * velocity.float()


def transition(
    kernel: Kernel,
    x: Float[Tensor, "b c h w"],
    velocity: Float[Tensor, "b c h w"],
    t: Level,
    t_next: Level,
) -> Transition:
    """The Gaussian of the step from level t to level t'.

    | kernel     | mean                                                      | std                |
    | ---------- | --------------------------------------------------------- | ------------------ |
    | `cps(eta)` | `(1-t') x0_hat + t' cos(eta pi/2) eps_hat`                | `t' sin(eta pi/2)` |
    | `renoise`  | `(1-t') x0_hat`                                           | `t'`               |
    | `ode`      | `x + (t'-t) v`, which is `(1-t') x0_hat + t' eps_hat`     | 0                  |
    | `flow_sde` | `(1-t') x0_hat + (t' - g^2 D/(2t)) eps_hat`, D = t - t'   | `g sqrt(D)`        |

    with `g = a sqrt(t/(1-t))`, and `a sqrt(t/(1-t'))` from a level above 0.99. `renoise` and `ode` are, operation for
    operation, the steps of diffusers' `FlowMatchEulerDiscreteScheduler` with and without `stochastic_sampling`. At
    t' = 0 the cps family ends in x0_hat without noise; `flow_sde` leaves noise in the final latent.

    Args:
        kernel: The kernel.
        x: State at level t.
        velocity: The network's output at x; of any float type.
        t: Level of x, in (0, 1]; a number or a scalar tensor, best on the CPU.
        t_next: Level to reach, in [0, t).

    Raises:
        ValueError: if the levels do not satisfy 0 <= t' < t <= 1.
    """
    level, reached = torch.as_tensor(t, dtype=torch.float32), torch.as_tensor(t_next, dtype=torch.float32)
    if not 0 <= float(reached) < float(level) <= 1:
        raise ValueError(f"a step needs 0 <= t_next < t <= 1, got t = {float(level)}, t_next = {float(reached)}")
    if kernel.name == "flow_sde":
        return _flow_sde(kernel.noise, x, velocity, level, reached)
    eta = kernel.freshness
    if eta == 0:
        return Transition(x.float() + (reached - level) * velocity.float(), torch.zeros_like(reached))
    mean = (1 - reached) * clean_from_velocity(x, velocity, level)
    if eta == 1:  # cos(pi/2) is 6e-17 in floating point, not 0
        return Transition(mean, reached.clone())
    kept, fresh = math.cos(eta * math.pi / 2), math.sin(eta * math.pi / 2)
    return Transition(mean + reached * kept * noise_from_velocity(x, velocity, level), reached * fresh)


def _flow_sde_variance(scale: float, t: Tensor, t_next: Tensor) -> Tensor:
    return scale**2 * t / (1 - torch.where(t > FLOW_SDE_MAX_T, t_next, t)) * (t - t_next)


def _flow_sde(scale: float, x: Tensor, velocity: Tensor, t: Tensor, t_next: Tensor) -> Transition:
    variance = _flow_sde_variance(scale, t, t_next)
    clean, eps = clean_from_velocity(x, velocity, t), noise_from_velocity(x, velocity, t)
    return Transition((1 - t_next) * clean + (t_next - variance / (2 * t)) * eps, variance.sqrt())


def stochastic_steps(kernel: Kernel, sigmas: Float[Tensor, " k1"]) -> int:
    """Number of leading steps that are actions of the policy: drawn with noise, stored and policy-gradient trained.

    K - 1 for every stochastic kernel and 0 for a deterministic one. The last step has no density in the cps family.
    `flow_sde` draws noise there too, but its last step is left out all the same: that noise is never removed again,
    so it belongs to the environment, and all kernels then give records of one shape.

    Args:
        kernel: The kernel.
        sigmas: K + 1 levels, K >= 1, the last 0.

    Raises:
        ValueError: if there are fewer than two levels or the last is not 0.
    """
    if sigmas.numel() <= 1 or float(sigmas[-1]) != 0:
        raise ValueError(f"sigmas must hold at least one level and a final 0, got {sigmas.tolist()}")
    return sigmas.numel() - 2 if kernel.is_stochastic else 0


def _usable(std: Tensor, like: Tensor) -> Tensor:
    """`std` shaped to meet `like`, checked: a deterministic step has no density."""
    if not bool((std > 0).all()):
        raise ValueError("a step with std 0 has no density: leave deterministic steps out")
    return _beside(std, like)


def log_prob(action: Float[Tensor, "b c h w"], mean: Float[Tensor, "b c h w"], std: Std) -> Float[Tensor, " b"]:
    """Log-density of `action` under `N(mean, std^2 I)`, summed over the elements, in nats and float32.

    Per element `-(a - mean)^2 / (2 std^2) - log std - log(2 pi) / 2`.

    Raises:
        ValueError: if a `std` is not positive.
    """
    scale = _usable(std, action)
    z = (action.float() - mean.float()) / scale
    return (-0.5 * z.square() - scale.log() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


def log_ratio(
    action: Float[Tensor, "b c h w"],
    mean_new: Float[Tensor, "b c h w"],
    mean_old: Float[Tensor, "b c h w"],
    std: Std,
) -> Float[Tensor, " b"]:
    """Log-probability of an action under the new policy minus that under the old, mean over elements, in nats.

    `mean[(mean_new - mean_old) (2 a - mean_old - mean_new)] / (2 std^2)`: exactly 0 for equal means, and never a
    difference of large numbers. Its gradient at equal means is the score divided by the number of elements.

    Raises:
        ValueError: if a `std` is not positive.
    """
    scale = _usable(std, action)
    action, new, old = action.float(), mean_new.float(), mean_old.float()
    return ((new - old) * ((action - old) + (action - new)) / (2 * scale.square())).flatten(1).mean(1)


def kl_per_element(
    mean_new: Float[Tensor, "b c h w"], mean_old: Float[Tensor, "b c h w"], std: Std
) -> Float[Tensor, " b"]:
    """KL divergence of two policies of the same std, mean over elements, in nats: `mean[(new - old)^2] / (2 std^2)`.

    Raises:
        ValueError: if a `std` is not positive.
    """
    scale = _usable(std, mean_new)
    return ((mean_new.float() - mean_old.float()).square() / (2 * scale.square())).flatten(1).mean(1)


def clean_from_mean(
    kernel: Kernel, x: Float[Tensor, "b c h w"], mean: Float[Tensor, "b c h w"], t: Level, t_next: Level
) -> Float[Tensor, "b c h w"]:
    """The clean prediction `x0_hat` behind a stored mean: the inverse of `transition` in its velocity.

    Every kernel's mean is `a x0_hat + b eps_hat` and `x = (1-t) x0_hat + t eps_hat`, so
    `x0_hat = (mean - (b/t) x) / (a - b (1-t)/t)`.

    Args:
        kernel: The kernel that made the mean.
        x: State at level t.
        mean: Mean of the step from t to t'.
        t: Level of x, in (0, 1].
        t_next: Level reached, in [0, t).
    """
    level, reached = torch.as_tensor(t, dtype=torch.float32), torch.as_tensor(t_next, dtype=torch.float32)
    if kernel.name == "flow_sde":
        of_noise = reached - _flow_sde_variance(kernel.noise, level, reached) / (2 * level)
    else:
        eta = kernel.freshness
        of_noise = reached * (0.0 if eta == 1 else math.cos(eta * math.pi / 2))
    return (mean.float() - of_noise / level * x.float()) / ((1 - reached) - of_noise * (1 - level) / level)
