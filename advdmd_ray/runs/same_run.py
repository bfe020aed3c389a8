"""What a resumed run, or an export, may not change: settings held against those that a checkpoint was made with."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from advdmd_ray.config import Config, Resume
from advdmd_ray.data.registry import source_of
from advdmd_ray.errors import UserError

if TYPE_CHECKING:
    from advdmd_ray.learner.checkpoint import Checkpoint


def check_same_run(config: Config, path: Path) -> int:
    """Compare the settings of a run that is to be resumed with those that its checkpoint was made with.

    Args:
        config: The configuration to go on with.
        path: The checkpoint.

    Returns:
        How many of `run.cycles` are left, 0 or more.

    Raises:
        UserError: naming the first setting that a resumed run may not change and that differs, or if the checkpoint
            has more cycles than `run.cycles`.
    """
    from advdmd_ray.learner.checkpoint import verified_checkpoint  # noqa: PLC0415 - imports torch

    checkpoint = verified_checkpoint(path)
    why = "a resumed run cannot change it; set it back, or start anew by --fresh"
    check_made_with(config, checkpoint, (Resume.FIXED, Resume.STUDENT), why)
    left = config.run.cycles - checkpoint.step
    if left < 0:
        raise UserError(
            f"run.cycles is {config.run.cycles}, but {path.name} has {checkpoint.step} cycles; set run.cycles="
            f"{checkpoint.step} or more, name an older checkpoint by --resume, or start anew by --fresh"
        )
    return left


def changed(then: Config, now: Config, *kinds: Resume) -> Iterator[tuple[str, str]]:
    """Section and name of every setting of these kinds that has another value now."""
    for section, name in Config.settings(*kinds):
        if getattr(getattr(then, section), name) != getattr(getattr(now, section), name):
            yield section, name


def check_made_with(config: Config, checkpoint: "Checkpoint", kinds: tuple[Resume, ...], why: str) -> None:
    """Compare settings with those that a checkpoint was made with.

    Args:
        config: The configuration.
        checkpoint: What was made.
        kinds: Settings of these kinds must be the same.
        why: Says why to the user, and what to do.

    Raises:
        UserError: naming the first setting that differs.
    """
    if "config" not in checkpoint.facts:
        raise UserError(f"{checkpoint.path} was not made by a run; name another by --resume, or start anew by --fresh")
    # Read as a configuration, so that a setting younger than the checkpoint has the default it was made with. A section
    # that is gone was the teacher's training or a comparison's; no run hangs on it.
    sections = {name: values for name, values in checkpoint.facts["config"].items() if name in Config.model_fields}
    try:
        made_with = Config.model_validate(sections)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(
            f"{checkpoint.path.name} was made with a setting that this version does not take: {key}; start anew by "
            "--fresh"
        ) from None
    then, now = made_with.model_dump(mode="json"), config.model_dump(mode="json")
    for section, name in changed(made_with, config, *kinds):
        before, after = then[section][name], now[section][name]
        raise UserError(f"{section}.{name} is {after!r}, but {checkpoint.path.name} was made with {before!r}: {why}")
    before, after = made_with.judged_guidance, config.judged_guidance
    if Resume.FIXED in kinds and before != after and source_of(config).made_by_workers:
        raise UserError(
            f"the teacher's images are drawn with guidance {after:g} (evaluation.teacher_guidance), but those of "
            f"{checkpoint.path.name} with {before:g}: {why}"
        )
