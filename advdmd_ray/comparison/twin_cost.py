"""What an update of TwinFlow costs, and how its rows are spread over the student's steps, on which that hangs."""

import torch
from jaxtyping import Int64
from torch import Tensor

from advdmd_ray.comparison.twinflow_settings import TwinFlowSettings
from advdmd_ray.config import Config
from advdmd_ray.runs.needs.compute import FORWARD, WITH_BACKWARD, Network, guided_forward


def steps_of_rows(rows: int, steps: int, emphasis: float) -> Int64[Tensor, " rows"]:
    """The student step that each row of a batch trains, ascending, in shares of `P(step < k) = (k / steps)^emphasis`.

    Fixed shares instead of draws: every update then costs the same.
    """
    places = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    return (steps * places.pow(1 / emphasis)).long().clamp(max=steps - 1)


def update_cost(config: Config, settings: TwinFlowSettings, network: Network, *, warm: bool) -> int:
    """Forward-equivalents of one update: a forward of the network for one image is 1, with its backward 3.

    Args:
        config: Steps, guidance and emphasis.
        settings: Batch size, and the parts that take part.
        network: The transformer.
        warm: Whether the update goes without rectification.
    """
    teacher = guided_forward(config.model.guidance, network)
    simulated = int(steps_of_rows(settings.batch_size, config.steps, config.learner.late_steps).sum())
    student = FORWARD if warm else WITH_BACKWARD
    gap = 0 if warm else FORWARD + teacher
    consistency = WITH_BACKWARD + FORWARD + teacher if settings.consistency > 0 else 0
    return simulated * FORWARD + settings.batch_size * (student + WITH_BACKWARD + gap + consistency)
