"""Pre-flight: whatever would make a run fail is found before anything starts.

Each check raises `UserError` with one line: what came, what is allowed, what to do. Checks leave nothing behind;
only `claim` changes the run folder.
"""

import os
from dataclasses import replace

from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import PipelineInfo, inspect_pipeline
from advdmd_ray.models.sampling_settings import SAMPLING
from advdmd_ray.runs.folder import Start, check_writable, plan_start
from advdmd_ray.runs.needs.memory import group_bytes, placement, ray_address, reserved
from advdmd_ray.runs.same_run import check_same_run


def check(config: Config, resume: str | None = None, *, fresh: bool = False, local: bool = False) -> Start:
    """Make sure that a run can begin.

    Args:
        config: The resolved configuration.
        resume: None, "auto", or the path of a run folder, a checkpoint folder or one checkpoint.
        fresh: Move an earlier run of this name aside instead of refusing to start.
        local: Run in this process, without Ray.

    Raises:
        UserError: for the first obstacle found.
    """
    from advdmd_ray.metrics.hub import check_port_free  # noqa: PLC0415 - prometheus_client may be what is missing

    check_model(config)
    source_of(config).check()
    check_writable(config.folder)
    if local:
        check_local(config)
    else:
        check_cores(config)
    start = plan_start(config.folder, resume, fresh=fresh)
    if start.checkpoint is not None and not check_same_run(config, start.checkpoint):
        finished = f"all {config.run.cycles} cycles are made; what follows them, export and judgement, is made again"
        start = replace(start, note=f"{start.note}: {finished}")
    check_port_free(config.metrics.host, config.metrics.port)
    return start


def check_cores(config: Config) -> None:
    """Make sure that a local Ray has the CPUs that the workers reserve; a cluster is asked when it is joined.

    Raises:
        UserError: if it has not.
    """
    if ray_address(config) is not None:
        return
    (demanded, _), cores = reserved(placement(config)), os.cpu_count() or 1
    if demanded > cores:
        raise UserError(
            f"the workers reserve {demanded:g} CPUs, this machine has {cores}; lower rollout.actors, reward.workers, "
            "learner.ranks or their num_cpus, or join a cluster"
        )


def check_local(config: Config) -> None:
    """Make sure that one process can be the whole run.

    Raises:
        UserError: if it needs several, another machine, or a GPU that torch does not see.
    """
    if config.learner.ranks > 1:
        raise UserError(
            f"--local is one process, and learner.ranks={config.learner.ranks} asks for more; set learner.ranks=1, or "
            "leave out --local"
        )
    if config.ray.address not in (None, "local"):
        raise UserError(
            f"--local uses no Ray, and ray.address={config.ray.address} names one; set ray.address=null, or leave out "
            "--local"
        )
    roles = [role for role in (config.rollout, config.reward, config.learner) if role.num_gpus]
    if roles:
        from advdmd_ray.runs.parts.networks import device_of  # noqa: PLC0415 - imports torch

        for role in roles:
            device_of(role)


def check_model(config: Config) -> None:
    """Read the headers of the teacher's pipeline folder and compare it with the configuration.

    Raises:
        UserError: if the folder or a component is missing, a weight file is truncated, the pipeline was trained with
            another text length, the discriminator asks for a block that the transformer has not, or the buffer cannot
            hold the groups of one learner cycle: the actors would wait for room and the learner for groups, for ever.
    """
    from advdmd_ray.stations.buffer.index import check_capacity  # noqa: PLC0415 - imports numpy

    info = inspect_pipeline(config.model.path, config.model.pixels)
    check_fit(config, info)
    check_capacity(config.buffer.max_bytes, group_bytes(config, info.latent), config.rollout.groups_per_cycle)


def check_fit(config: Config, info: PipelineInfo) -> None:
    """Compare the configuration with a pipeline folder.

    Raises:
        UserError: if the text lengths differ or the discriminator asks for a block that the transformer has not.
    """
    check_max_sequence_length(config, info)
    if max(config.discriminator.blocks) >= info.layers:
        raise UserError(
            f"discriminator.blocks = {list(config.discriminator.blocks)}: the transformer in {info.folder} has blocks "
            f"0 to {info.layers - 1}; name some of these"
        )


def check_max_sequence_length(config: Config, info: PipelineInfo) -> None:
    """Compare the configured text length with that of a pipeline folder; one that does not say fits any.

    Raises:
        UserError: if they differ, or the family's pipeline does not take so many tokens.
    """
    length, most = config.model.max_sequence_length, info.family.max_tokens
    if length > most:
        raise UserError(
            f"model.max_sequence_length is {length}, but a {info.family.pipeline} takes at most {most} tokens; set it "
            f"to {most} or less"
        )
    if info.sampling is not None and info.sampling.max_sequence_length != length:
        trained = info.sampling.max_sequence_length
        raise UserError(
            f"model.max_sequence_length is {length}, but {info.folder / SAMPLING} says {trained}, which the pipeline "
            f"was trained with; set model.max_sequence_length={trained}"
        )
