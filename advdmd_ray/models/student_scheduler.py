"""The scheduler that an exported student is sampled with in plain diffusers."""

from typing import Any

from advdmd_ray.models.folder import PipelineInfo
from advdmd_ray.models.headers import read_json


def student_scheduler(info: PipelineInfo, *, stochastic: bool, several: bool) -> Any:
    """The stock `FlowMatchEulerDiscreteScheduler` that shifts a student's levels as in training.

    The shift of a student of one size is a number. That of one of several sizes hangs on the number of tokens where the
    teacher's does; what a teacher's scheduler does to its last level (`shift_terminal`) a student's never does.

    Args:
        info: The teacher's pipeline, at the student's size.
        stochastic: Whether steps draw noise.
        several: Whether the student has several sizes.
    """
    from advdmd_ray.models.diffusers_classes import FlowMatchEulerDiscreteScheduler

    if several:
        config = read_json(info.folder / "scheduler" / "scheduler_config.json")
        if config.get("use_dynamic_shifting", False):
            changed = {**config, "shift_terminal": None, "stochastic_sampling": stochastic}
            return FlowMatchEulerDiscreteScheduler.from_config(changed)
    return FlowMatchEulerDiscreteScheduler(shift=info.scheduler_shift, stochastic_sampling=stochastic)
