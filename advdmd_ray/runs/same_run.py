"""What a resumed run, or an export, may not change: settings held against those that a checkpoint was made with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError

FIXED = (
    "run.seed",
    "model",
    "lora",
    "data",
    "diffusion",
    "rollout.group_size",
    "rollout.warm_group_size",
    "rollout.groups_per_cycle",
    "discriminator.blocks",
    "discriminator.width",
    "discriminator.backbone",
    "discriminator.heldout_fraction",
    "cadence.dmd_updates",
)
"""Settings that a resumed run must keep: the prompt stream, the pace, the groups and the networks hang on them."""
PLACES = {"model": {"embeddings"}, "data": {"cache"}}
"""Settings of where things are kept, section by section; no result hangs on them."""
FREE = {"model": PLACES["model"] | {"attention"}, "data": PLACES["data"] | {"most_skipped"}}
"""What may change in sections that are fixed otherwise: places, and what differs by rounding or not at all."""


def check_same_run(config: Config, checkpoint: Path) -> None:
    """Compare what a resumed run may not change with the configuration that its checkpoint was made with.

    Raises:
        UserError: naming the first setting that differs.
    """
    from advdmd_ray.learner.checkpoint import open_checkpoint  # noqa: PLC0415 - imports torch

    why = "a resumed run cannot change it; set it back, or start anew by --fresh"
    check_made_with(config, checkpoint, open_checkpoint(checkpoint).facts, FIXED, why)


def check_made_with(config: Config, checkpoint: Path, facts: Mapping[str, Any], fixed: Sequence[str], why: str) -> None:
    """Compare settings with those that a checkpoint was made with.

    Args:
        config: The configuration.
        checkpoint: Where the checkpoint is.
        facts: Its facts.
        fixed: Sections and settings that must be the same.
        why: Says why to the user, and what to do.

    Raises:
        UserError: naming the first setting that differs.
    """
    if "config" not in facts:
        raise UserError(f"{checkpoint} was not made by a run; name another by --resume, or start anew by --fresh")
    # Read as a configuration, so that a setting younger than the checkpoint has the default it was made with.
    try:
        then = Config.model_validate(facts["config"]).model_dump(mode="json")
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(
            f"{checkpoint.name} was made with a setting that this version does not take: {key}; start anew by --fresh"
        ) from None
    now = config.model_dump(mode="json")
    for key in fixed:
        section, _, name = key.partition(".")
        before, after = then[section], now[section]
        if name:
            before, after = before[name], after[name]
        else:
            free = FREE.get(section, set())
            before, after = ({k: v for k, v in tree.items() if k not in free} for tree in (before, after))
        if before != after:
            raise UserError(f"{key} is {after!r}, but {checkpoint.name} was made with {before!r}: {why}")
