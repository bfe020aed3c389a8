"""Pre-flight: whatever would make a run fail is found before anything starts.

Each check raises `UserError` with one line: what came, what is allowed, what to do. Checks leave nothing behind;
only `claim` changes the run folder. A run stops at the first obstacle, the doctor tells all of them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.data.captioned_source import CaptionedSource
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.registry import source_of
from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import PipelineInfo
from advdmd_ray.models.quantization import check_quantization
from advdmd_ray.models.sampling_settings import SAMPLING
from advdmd_ray.models.sizes import largest_pipeline
from advdmd_ray.models.targets import linear_layers, targeted
from advdmd_ray.runs.folder import Start, plan_start
from advdmd_ray.runs.guiding import check_guidance, check_negative_prompt
from advdmd_ray.runs.lasting import check_places
from advdmd_ray.runs.needs.disk import check_disk
from advdmd_ray.runs.needs.memory import group_bytes, placement, ray_address, reserved
from advdmd_ray.runs.outputs import check_writable
from advdmd_ray.runs.same_run import check_same_run
from advdmd_ray.runs.sinks import check_sinks

MOST_VALIDATED = 256
"""Images of a validation: the learner waits for them, and the page has them all."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a run needs wherever it starts.

    Attributes:
        subject: What is looked at.
        found: What to say if it is as it should be.
        look: Raises `UserError` if it is not.
    """

    subject: str
    found: str
    look: Callable[[], object]


def checks(config: Config) -> tuple[Check, ...]:
    """What the configuration needs of the model, the data and the folders, in the order in which a run looks."""
    model, lora, blocks = config.model, config.lora, config.discriminator.blocks

    def info() -> PipelineInfo:
        return largest_pipeline(config)

    found = [
        Check("pipeline", model.path, info),
        Check("text length", f"{model.max_sequence_length} tokens", lambda: check_max_sequence_length(config, info())),
        Check("guidance", f"{model.guidance:g}", lambda: check_guidance(config, info())),
        Check("negative prompt", repr(model.negative_prompt), lambda: check_negative_prompt(config, info())),
        Check("discriminator", f"reads blocks {list(blocks)}", lambda: check_blocks(config, info())),
        Check("adapters", f"rank {lora.rank} on {', '.join(lora.targets)}", lambda: check_targets(config, info())),
        Check("quantization", str(model.quantization), lambda: check_quantization(str(model.quantization))),
        Check("attention", str(model.attention), lambda: check_backend(config, info())),
        Check("buffer", "holds the groups of a cycle", lambda: check_buffer(config, info())),
        Check("data", config.data.source, lambda: check_data(config)),
        Check("own reward", str(config.reward.extra), lambda: check_extra(config)),
        Check("validation", str(config.validation.prompts), lambda: check_validation(config)),
        Check("scorers", ", ".join(config.scorers.names), lambda: check_scorers(config)),
        Check("run folder", str(config.folder), lambda: check_folder(config)),
        Check("sinks", ", ".join(config.metrics.sinks), lambda: check_sinks(config)),
        Check("embeddings", str(model.embeddings), lambda: check_embeddings(config)),
        Check("targets", str(config.metrics.targets), lambda: check_targets_folder(config)),
    ]
    unused = {
        "negative prompt": model.negative_prompt is None,
        "adapters": not lora.rank,
        "quantization": model.quantization is None,
        "attention": model.attention is None,
        "own reward": config.reward.extra is None,
        "validation": config.validation.prompts is None,
        "scorers": not config.scorers.names,
        "sinks": not config.metrics.sinks,
        "embeddings": model.embeddings is None,
        "targets": config.metrics.targets is None,
    }
    return tuple(one for one in found if not unused.get(one.subject, False))


def check(
    config: Config, resume: str | None = None, *, fresh: bool = False, local: bool = False, here: bool = True
) -> Start:
    """Make sure that a run can begin.

    Args:
        config: The resolved configuration.
        resume: None, "auto", or the path of a run folder, a checkpoint folder or one checkpoint.
        fresh: Move an earlier run of this name aside instead of refusing to start.
        local: Run in this process, without Ray.
        here: Whether this machine is to have the run; if not, its cores, GPUs, disk and port are not looked at.

    Raises:
        UserError: for the first obstacle found.
    """
    for one in checks(config):
        one.look()
    if local:
        check_local(config)
    if here:
        check_devices(config, local=local)
        check_disk(config)
    start = plan_start(config.folder, resume, fresh=fresh)
    if start.checkpoint is not None and not check_same_run(config, start.checkpoint):
        finished = f"all {config.run.cycles} cycles are made; what follows them, export and judgement, is made again"
        start = replace(start, note=f"{start.note}: {finished}")
    if here:
        from advdmd_ray.metrics.hub import check_port_free  # noqa: PLC0415 - prometheus_client may be what is missing

        check_port_free(config.metrics.host, config.metrics.port)
    return start


def check_devices(config: Config, *, local: bool = False) -> None:
    """Make sure that this machine has the CPUs and GPUs that the workers reserve; a cluster is asked when it is joined.

    Raises:
        UserError: if it has not.
    """
    roles = [role for role in config.roles.values() if role.num_gpus]
    if local and roles:
        from advdmd_ray.runs.parts.networks import device_of  # noqa: PLC0415 - imports torch

        for role in roles:
            device_of(role)
    if local or ray_address(config) is not None:
        return
    (demanded, gpus), cores = reserved(placement(config)), os.cpu_count() or 1
    if demanded > cores:
        raise UserError(
            f"the workers reserve {demanded:g} CPUs, this machine has {cores}; lower rollout.actors, reward.workers, "
            "learner.ranks or their num_cpus, or join a cluster"
        )
    if gpus:
        from advdmd_ray.runs.parts.networks import gpus_here  # noqa: PLC0415 - imports torch

        if gpus > gpus_here():
            raise UserError(
                f"the workers reserve {gpus:g} GPUs, torch sees {gpus_here()} here; lower rollout.actors, "
                "reward.workers, learner.ranks or their num_gpus, or join a cluster"
            )


def check_local(config: Config) -> None:
    """Make sure that one process can be the whole run.

    Raises:
        UserError: if it needs several, or another machine.
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


def check_model(config: Config) -> None:
    """Read the headers of the teacher's pipeline folder and compare it with the configuration.

    Raises:
        UserError: if the folder or a component is missing, a weight file is truncated, or as `check_fit` and
            `check_buffer`.
    """
    info = largest_pipeline(config)
    check_fit(config, info)
    check_buffer(config, info)


def check_fit(config: Config, info: PipelineInfo) -> None:
    """Compare the configuration with a pipeline folder.

    Raises:
        UserError: if the text lengths differ, or discriminator or adapters ask for what the transformer has not.
    """
    check_max_sequence_length(config, info)
    check_negative_prompt(config, info)
    check_blocks(config, info)
    check_targets(config, info)


def check_buffer(config: Config, info: PipelineInfo) -> None:
    """Make sure that the buffer holds the groups of one learner cycle.

    Raises:
        UserError: if not: the actors would wait for room and the learner for groups, for ever.
    """
    from advdmd_ray.stations.buffer.index import check_capacity  # noqa: PLC0415 - imports numpy

    check_capacity(config.buffer.max_bytes, group_bytes(config, info.latent), config.rollout.groups_per_cycle)


def check_targets(config: Config, info: PipelineInfo) -> None:
    """Look for the layers that are to have adapters among the names in the transformer's files.

    Raises:
        UserError: if one of `lora.targets` is the end of no name.
    """
    if config.lora.rank:
        targeted([*linear_layers(info)], config.lora.targets)


def check_backend(config: Config, info: PipelineInfo) -> None:
    """Make sure that the model can have the attention backend, and that a backend is installed here.

    Raises:
        UserError: if not; a cluster's nodes are not asked.
    """
    from advdmd_ray.models.attention import check_attention  # noqa: PLC0415 - only a few runs choose one

    if config.model.attention is not None:
        check_attention(info.family, config.model.attention)


def check_extra(config: Config) -> None:
    """Make sure that the user's own reward can be imported here, and that its weights are there.

    Raises:
        UserError: if not; a cluster's nodes are not asked.
    """
    if config.reward.extra is not None:
        _check_scorer(config, "reward.extra", config.reward.extra)


def check_validation(config: Config) -> None:
    """Make sure that the validation prompts can be read.

    Raises:
        UserError: if not, or if they are too many.
    """
    if config.validation.prompts is None:
        return
    prompts, images = load_prompts(config.validation.prompts), config.validation.images
    if len(prompts) * images > MOST_VALIDATED:
        raise UserError(
            f"validation.prompts = {config.validation.prompts}: has {len(prompts)} prompts, and with {images} images "
            f"of each more than {MOST_VALIDATED} would be drawn while the learner waits; give fewer, or lower "
            "validation.images"
        )


def check_scorers(config: Config) -> None:
    """Make sure that the scorers can be imported here, and that their weights are there.

    Raises:
        UserError: if not; a cluster's nodes are not asked.
    """
    for name in config.scorers.names:
        _check_scorer(config, "scorers.names", name)


def _check_scorer(config: Config, key: str, name: str) -> None:
    from advdmd_ray.evaluation.scorers import check_scorer  # noqa: PLC0415 - imports torch, and few runs have one

    check_scorer(key, name, config.scorers)


def check_folder(config: Config) -> None:
    """Make sure that the run folder can be written, and that a submitted job does not write where Ray deletes it.

    Raises:
        UserError: if not.
    """
    check_places(config)
    check_writable(config.folder)


def check_embeddings(config: Config) -> None:
    """Make sure that the folder of encoded prompts can be written.

    Raises:
        UserError: if it cannot.
    """
    if config.model.embeddings is not None:
        check_writable(Path(config.model.embeddings), "choose another model.embeddings")


def check_targets_folder(config: Config) -> None:
    """Make sure that the folder in which Prometheus looks for runs can be written.

    Raises:
        UserError: if it cannot.
    """
    if config.metrics.targets is not None:
        check_writable(Path(config.metrics.targets), "choose another metrics.targets")


def check_data(config: Config) -> None:
    """Ask the data source, and make sure that the folder of latents can be written where it keeps some.

    Raises:
        UserError: as `Source.check`, or if it cannot.
    """
    source = source_of(config)
    source.check()
    if isinstance(source, CaptionedSource):
        check_writable(config.latents, "choose another data.cache")


def check_blocks(config: Config, info: PipelineInfo) -> None:
    """Compare the blocks that the discriminator reads with those of the transformer.

    Raises:
        UserError: if the transformer has not so many.
    """
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
