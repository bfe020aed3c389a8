"""What pre-flight asks of the way that a teacher is guided."""

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import PipelineInfo


def check_guidance(config: Config, info: PipelineInfo) -> None:
    """Make sure that a teacher is guided as its pipeline guides it.

    Raises:
        UserError: if its pipeline guides no model of few steps, and the folder says that it is one.
    """
    asked = {"model.guidance": config.model.guidance, "evaluation.teacher_guidance": config.judged_guidance}
    for setting, guidance in asked.items():
        if info.distilled and not info.family.guides_distilled and guidance != 1:
            raise UserError(
                f"{setting} is {guidance:g}, but {info.folder} is distilled already, and a {info.family.pipeline} "
                f"gives such a model no guidance; set {setting}=1, or give the base model"
            )


def check_negative_prompt(config: Config, info: PipelineInfo) -> None:
    """Make sure that a negative prompt is read: that the teacher has classifier-free guidance.

    Raises:
        UserError: if it has not.
    """
    if config.model.negative_prompt is None:
        return
    if info.embedded_guidance or not info.family.takes_negative:
        raise UserError(
            f"model.negative_prompt: none is read with the {info.family.pipeline} in {info.folder}; set it to null"
        )
    if config.model.guidance == 1 and config.judged_guidance == 1:
        raise UserError("model.negative_prompt: is not read with model.guidance=1; raise that, or set it to null")
