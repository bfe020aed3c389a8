"""A field out of a checkpoint of a run or of a comparison's job."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.config.layers import Layer, layer_of, resolve
from advdmd_ray.config.parsing import parse_yaml
from advdmd_ray.data.registry import source_of
from advdmd_ray.diffusion.seeds import derive_seed
from advdmd_ray.errors import UserError
from advdmd_ray.learner.checkpoint import Checkpoint, latest_checkpoint, open_checkpoint
from advdmd_ray.learner.engine_state import require_fit, shapes_of, trainable
from advdmd_ray.learner.networks import Networks
from advdmd_ray.learner.setting import Setting
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.runs.parts.inputs import encode_table, geometry
from advdmd_ray.runs.parts.networks import base_digest, build_denoiser, build_networks, device_of
from advdmd_ray.runs.parts.workers import build_oracle
from benchmarks.estimators.field import Counter, Field

RL: Mapping[str, Any] = {"policy_gradient.enabled": True, "discriminator.auc_rows": 1}
"""Of runs that have made no RL turn, or never do, the estimators ask for one all the same. No level is shut here, so a
gate measures any number of rows that settings with RL may have."""
MANIFEST = "manifest.json"


def checkpoint_at(path: Path) -> Checkpoint:
    """The checkpoint in a folder, or the newest of a run's or job's folder.

    Raises:
        UserError: if there is none that is whole.
    """
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give one of a checkpoint, of a run or of a comparison's job")
    return open_checkpoint(path) if (path / MANIFEST).is_file() else latest_checkpoint(path / "checkpoints")


def open_field(checkpoint: Checkpoint, overrides: Sequence[str], seed: int) -> Field:
    """The networks as the checkpoint has them, under its run's settings.

    Args:
        checkpoint: Of any cycle.
        overrides: `section.key=value` over the run's settings.
        seed: Names all draws.

    Raises:
        UserError: for a setting that is wrong, or a data source without a checker.
    """
    layers = [Layer(str(checkpoint.path), checkpoint.facts["config"]), layer_of("estimators", RL)]
    config = resolve(Config, [*layers, *(_override(text) for text in overrides)])
    table, shapes = encode_table(config), geometry(config)
    teacher = build_denoiser(config, config.learner)
    family = inspect_pipeline(config.model.path).family
    networks = build_networks(config, teacher, family, device_of(config.learner), base_digest(config))
    load_networks(checkpoint, networks)
    learn, heldout = (
        source_of(config)
        .real_images(table.texts)
        .split(config.discriminator.heldout_fraction, derive_seed(config.run.seed, "heldout"))
    )
    setting = Setting(
        config=config,
        table=table,
        kernel=shapes.kernel,
        sigmas=shapes.largest.sigmas,
        real=learn,
        real_heldout=heldout,
        teacher=networks.guide(networks.teacher.eval(), table.unconditional, config.model.guidance),
        micro_batch=networks.micro_batch,
    )
    return Field(
        setting=setting,
        student=networks.student,
        discriminator=networks.discriminator,
        latent_shape=shapes.largest.latent_shape,
        oracle=build_oracle(config),
        seed=seed,
        forwards=Counter(networks.student, networks.discriminator),
    )


def load_networks(checkpoint: Checkpoint, networks: Networks) -> None:
    """Sets the weights that learn; of the discriminator those that score. It then learns no more.

    Raises:
        CheckpointError: if they are of other networks.
    """
    stems = {"student": networks.student, "fake_score": networks.fake_score, "judge": networks.discriminator}
    for stem, module in stems.items():
        _set(module, checkpoint.load(stem))
    networks.discriminator.requires_grad_(requires_grad=False)


@torch.no_grad()
def _set(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    parameters = trainable(module)
    require_fit(weights, shapes_of(parameters))
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def _override(text: str) -> Layer:
    """Raises UserError for a text without `=`."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text!r}: expected section.key=value")
    return layer_of(f"--set {text}", {key: parse_yaml(value)})
