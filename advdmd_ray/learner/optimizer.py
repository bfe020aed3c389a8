"""AdamW with one set of moments per objective over the same parameters."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim.adamw import adamw

MOMENTS: Final = ("exp_avg", "exp_avg_sq")


class MomentSetAdamW(torch.optim.Optimizer):
    r"""AdamW whose moments, step count and learning rate belong to an objective, not to the parameters.

    Why: the student is trained by two losses whose gradients differ in size; in the demo a policy gradient has a
    tenth of the norm of the DMD gradient. Adam divides by the root mean square of what it saw, so in one shared set
    the small gradients are measured against the large ones and hardly count. With a set of its own each loss moves
    the parameters as far as its learning rate says.

    For objective `o` at its own step count `t` with gradient `g` (AdamW, arXiv 1711.05101):

        m_o <- b1 m_o + (1 - b1) g
        v_o <- b2 v_o + (1 - b2) g^2
        p   <- (1 - lr_o wd) p - lr_o (m_o / (1 - b1^t)) / (sqrt(v_o / (1 - b2^t)) + eps)

    The other objectives' `m`, `v` and `t` stay untouched. `eps` only prevents 0 / 0 and lies far below the usual
    1e-8, which per-element policy gradients can reach.

    A missing gradient counts as zero, as it does in the flat partitions that ZeRO puts in place of the parameters.
    State of a parameter: `"<objective>.exp_avg"` and `"<objective>.exp_avg_sq"`, float32 tensors of its shape. The
    step counts are shared by all parameters: `param_groups[0]["steps"]`.

    Args:
        params: the parameters, one group.
        learning_rates: objective name (an identifier) -> learning rate, > 0.
        betas: decay rates of the first and second moment, in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: decoupled weight decay, >= 0, applied at each objective's own rate.

    Raises:
        ValueError: for no objective, a name that is not an identifier, or a value out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        learning_rates: Mapping[str, float],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-12,
        weight_decay: float = 0.0,
    ) -> None:
        bad = [name for name in learning_rates if not name.isidentifier()]
        if bad or not learning_rates:
            raise ValueError(f"objectives must be named by identifiers, at least one; got {list(learning_rates)}")
        numbers = (*learning_rates.values(), eps)
        if not all(math.isfinite(x) and x > 0 for x in numbers) or not all(0 <= b < 1 for b in betas):
            raise ValueError(f"need rates > 0, eps > 0, betas in [0, 1); got {dict(learning_rates)}, {eps}, {betas}")
        if not math.isfinite(weight_decay) or weight_decay < 0:
            raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")
        self.learning_rates: Final = dict(learning_rates)
        self._selected: str | None = None
        self._rests = False
        first_rate = next(iter(self.learning_rates.values()))
        group = {"params": list(params), "steps": dict.fromkeys(self.learning_rates, 0)}
        super().__init__([group], {"lr": first_rate, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @property
    def steps(self) -> dict[str, int]:
        """Steps taken so far per objective; assign to the entries to restore them."""
        return self.param_groups[0]["steps"]

    @property
    def moment_keys(self) -> list[str]:
        """Keys of all moments in a parameter's state: `"<objective>.exp_avg"`, `"<objective>.exp_avg_sq"`, ..."""
        return [f"{objective}.{moment}" for objective in self.learning_rates for moment in MOMENTS]

    def use(self, objective: str, factor: float = 1.0) -> None:
        """Selects moments, step count and learning rate for the next `step()`, and for that one only.

        Args:
            objective: one of those named at construction.
            factor: multiplies the objective's learning rate, >= 0.

        Raises:
            ValueError: for an objective that was not named at construction, or a negative factor.
        """
        if not factor >= 0:
            raise ValueError(f"the factor of a learning rate must be >= 0, got {factor}")
        if objective not in self.learning_rates:
            raise ValueError(f"unknown objective {objective!r}; this optimizer has {list(self.learning_rates)}")
        self._selected, self._rests = objective, False
        for group in self.param_groups:
            group["lr"] = factor * self.learning_rates[objective]

    def rest(self) -> None:
        """Makes the next `step()`, and that one only, change nothing."""
        self._rests = True

    def create_state(self) -> None:
        """Creates all moment sets at once, as zeros, where they do not exist yet.

        All sets exist from the first step on, so that whoever maps or saves the state sees the same keys at any time.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                for key in self.moment_keys:
                    if key not in state:
                        state[key] = torch.zeros_like(parameter, dtype=torch.float32)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closure, so no loss to return
        """One AdamW update with the selected objective's moments.

        Raises:
            RuntimeError: if no `use()` preceded this step.
            ValueError: for a closure; the gradients must already be there.
        """
        if closure is not None:
            raise ValueError("MomentSetAdamW takes no closure")
        objective = self._selected
        if objective is None:
            raise RuntimeError(f"step() without use(): select one of {list(self.learning_rates)} first")
        self._selected = None
        self.create_state()
        if self._rests:
            return
        self.steps[objective] += 1
        (group,) = self.param_groups
        parameters = group["params"]
        first, second = ([self.state[p][f"{objective}.{moment}"] for p in parameters] for moment in MOMENTS)
        beta1, beta2 = group["betas"]
        # It counts on by itself, and wants the counts where the parameters are.
        counts = torch.full((len(parameters),), self.steps[objective] - 1.0, device=parameters[0].device).unbind()
        # Fused: hundreds of small tensors, one after the other, would take longer than a small network's backward pass.
        adamw(
            parameters,
            [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters],
            first,
            second,
            [],
            list(counts),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One group only: ZeRO calls `step()` once per group, while a step count counts whole steps."""
        if self.param_groups:
            raise ValueError("MomentSetAdamW holds one parameter group")
        super().add_param_group(param_group)
