"""What a run will occupy, told before it starts: the workers of every role and the memory of each.

Known from the configuration and the headers of the teacher's folder; nothing is loaded and torch is not imported.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.config.inputs import LoraSection
from advdmd_ray.models.families.flops import forward_flops
from advdmd_ray.models.families.kept import BFLOAT16, FLOAT32, INT8, Backbone, backbone_of
from advdmd_ray.models.folder import LatentSpec, PipelineInfo
from advdmd_ray.models.sizes import largest_pipeline
from advdmd_ray.models.targets import BlockLayers, linear_layers, targeted
from advdmd_ray.runs.needs.activations import Activations, settled
from advdmd_ray.runs.needs.compute import Network

MIB, GIB = 2**20, 2**30
PROCESS_BYTES = 350 * MIB
"""Memory of its own of a worker before any network: Python, torch, Ray, diffusers (338 MiB measured, CPU build of
torch 2.13; 359 MiB with deepspeed)."""
ACTIVATIONS, GROUPS = "activations", "groups at hand"
IN_HOST = " in host memory"
PUBLISHED = "copies to publish"
_IN_HOST_MEMORY = frozenset({"process", "EMA", "averages of 2", PUBLISHED, GROUPS})
"""Parts that are in host memory even where a worker has its networks on a GPU."""

_OF_THE_FIRST = frozenset({"EMA", "averages of 2", PUBLISHED})
"""Parts that the first worker of a role alone has: rank 0 keeps the averages and publishes, others help to gather."""

LIVE_BYTES = GIB
"""Most that ZeRO 3 keeps gathered for its next use, where activations are made again."""


@dataclass(frozen=True, slots=True)
class Role:
    """The workers of one role.

    Attributes:
        name: The role.
        workers: Processes.
        num_cpus: Logical CPUs reserved by each.
        num_gpus: GPUs reserved by each.
        where: Where they run.
    """

    name: str
    workers: int
    num_cpus: float
    num_gpus: float
    where: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes read from the teacher's pipeline folder.

    Attributes:
        transformer: Weights of the transformer, the network that is distilled.
        others: Weights of all other components, loaded once, to encode the prompts.
        latent: Shape of one latent.
        backbone: The transformer by what its blocks keep.
        network: The transformer as the count of compute has it.
        adapters: Weights of one role's adapters; 0 where whole networks learn.
        adapted: Weights of the layers that have one.
        in_blocks: The linear layers of its blocks, where `model.quantization` stores them in fewer bits.
        encoded_whole: Whether prompts are encoded beside the transformer, as SD3 without its T5 encoder must.
    """

    transformer: int
    others: int
    latent: LatentSpec
    backbone: Backbone
    network: Network
    adapters: int = 0
    adapted: int = 0
    in_blocks: BlockLayers | None = None
    encoded_whole: bool = False


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """Memory of one worker of a role.

    Attributes:
        role: The role.
        workers: Processes.
        parts: What is held and its bytes, in the first worker: learner rank 0 alone has the averages.
        on_gpu: Whether its networks are on a GPU.
        loaded: Bytes of the network that it reads from files; on its way to a GPU it is in host memory.
    """

    role: str
    workers: int
    parts: tuple[tuple[str, int], ...]
    on_gpu: bool = False
    loaded: int = 0

    @property
    def per_worker(self) -> int:
        """Bytes of one worker."""
        return sum(size for _, size in self.parts)

    @property
    def gpu(self) -> int:
        """Bytes of one worker in GPU memory."""
        if not self.on_gpu:
            return 0
        return sum(size for name, size in self.parts if name not in _IN_HOST_MEMORY and not name.endswith(IN_HOST))

    @property
    def host(self) -> int:
        """Most bytes of the first worker in host memory: while it starts, or while it works."""
        return max(self.per_worker - self.gpu, PROCESS_BYTES + self.loaded)

    @property
    def host_of_another(self) -> int:
        """Most bytes in host memory of a worker that is not the first."""
        alone = sum(size for name, size in self.parts if name in _OF_THE_FIRST)
        return max(self.per_worker - alone - self.gpu, PROCESS_BYTES + self.loaded)

    @property
    def host_of_all(self) -> int:
        """Most bytes in host memory of all workers together."""
        return self.host + (self.workers - 1) * self.host_of_another

    @property
    def largest(self) -> tuple[str, int]:
        """The part that counts most."""
        return max(self.parts, key=lambda part: part[1])


def ray_address(config: Config) -> str | None:
    """The cluster to join: `ray.address`, else RAY_ADDRESS; None for a local Ray."""
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def placement(config: Config) -> tuple[Role, ...]:
    """All Ray actors of a run, role by role. The driver is not among them: it reserves nothing."""
    address = ray_address(config)
    where = "this machine, in a local Ray" if address is None else f"the cluster at {address}"
    rollout, reward, learner = config.rollout, config.reward, config.learner
    return (
        Role("rollout", rollout.actors, rollout.num_cpus, rollout.num_gpus, where),
        Role("reward", reward.workers, reward.num_cpus, reward.num_gpus, where),
        Role("learner", learner.ranks, learner.num_cpus, learner.num_gpus, where),
        Role("metrics", 1, 0.0, 0.0, "beside the driver"),
    )


def reserved(rows: Sequence[Role]) -> tuple[float, float]:
    """Logical CPUs and GPUs that all workers of these roles reserve together."""
    return sum(row.workers * row.num_cpus for row in rows), sum(row.workers * row.num_gpus for row in rows)


def sizes_of(config: Config) -> Sizes:
    """Read the sizes of the teacher.

    Raises:
        UserError: if the pipeline folder is missing or damaged.
    """
    info = largest_pipeline(config)
    transformer = info.component("transformer").parameters
    others = sum(part.parameters for part in info.components) - transformer
    backbone = backbone_of(info, config.model.max_sequence_length)
    flops = forward_flops(info, backbone, rank=config.lora.rank, targets=config.lora.targets)
    return Sizes(
        transformer=transformer,
        others=others,
        latent=info.latent,
        backbone=backbone,
        network=Network.of(info, flops),
        adapters=adapter_weights(info, config.lora),
        adapted=adapted_weights(info, config.lora),
        in_blocks=None if config.model.quantization is None else BlockLayers.of(info),
        encoded_whole=bool(info.dropped),
    )


def adapter_weights(info: PipelineInfo, lora: LoraSection) -> int:
    """Weights of the adapters of one role: rank x (inputs + outputs) of every target layer, by the files' headers.

    Raises:
        UserError: for a target that the transformer does not have.
    """
    return lora.rank * sum(sum(shape) for shape in _adapted_layers(info, lora))


def adapted_weights(info: PipelineInfo, lora: LoraSection) -> int:
    """Weights of the layers that have an adapter; raises as `adapter_weights`."""
    return sum(math.prod(shape) for shape in _adapted_layers(info, lora))


def _adapted_layers(info: PipelineInfo, lora: LoraSection) -> list[tuple[int, ...]]:
    if not lora.rank:
        return []
    layers = linear_layers(info)
    return [layers[name] for name in targeted([*layers], lora.targets)]


def weight_bytes(config: Config) -> int:
    """Bytes of one weight of a network that does not learn as a whole."""
    return BFLOAT16 if config.lora.rank and config.model.precision == "bfloat16" else FLOAT32


def base_bytes(config: Config, sizes: Sizes) -> int:
    """Bytes of a network that does not learn as a whole.

    In 8 bits each output of a layer has a scale and an offset beside its weights, and a product needs the weights in
    the base's own precision for as long as it lasts, or as the backward pass of its block does.
    """
    whole, stored = sizes.transformer * weight_bytes(config), sizes.in_blocks
    if stored is None:
        return whole
    saved = stored.weights * (weight_bytes(config) - INT8)
    return whole - saved + stored.outputs * (FLOAT32 + INT8) + stored.largest * weight_bytes(config)


def group_bytes(config: Config, latent: LatentSpec) -> int:
    """Bytes of one group in the buffer, with its scores."""
    from advdmd_ray.stations.buffer.record_batch import encoded_bytes  # noqa: PLC0415 - imports numpy and pyarrow
    from advdmd_ray.stations.buffer.schema import GroupShape  # noqa: PLC0415

    shape = GroupShape(config.steps, *latent.shape, stochastic=config.diffusion.kernel != "ode")
    return encoded_bytes(shape, config.last_group_size, extra=config.reward.extra is not None)


def memory(config: Config, sizes: Sizes) -> tuple[RoleMemory, ...]:
    """Memory of each role, without discriminator heads; activations are an upper estimate (`activations.py`).

    A learner rank holds the student, the fake score and the frozen teacher, whose features the discriminator reads; a
    discriminator with a backbone of its own is one network more, counted whole, with its average that judges. Whole
    networks are float32. Adapters share one base, and every role adds its own; actors and reward workers that merge
    them have a second copy of the layers that have one. The student has its EMA. What learns is told by
    `learning_parts`. A learner rank does one thing after the other: of their activations the largest count.
    Where `micro_batch` is auto they are those of one row on a GPU, the least that it comes down to.
    """
    gpus = {role.name for role in placement(config) if role.num_gpus}
    config = settled(config, lambda role: 1 if role in gpus else None)
    base, loaded = base_bytes(config, sizes), sizes.transformer * weight_bytes(config)
    learnt = (sizes.adapters or sizes.transformer) * FLOAT32
    own = int(config.discriminator.backbone == "own")
    process = ("process", PROCESS_BYTES)
    activations = Activations(config, sizes.backbone, sizes.network, sizes.transformer)
    work, most = max(activations.learner().items(), key=lambda item: item[1])
    group = group_bytes(config, sizes.latent)
    learner = (
        process,
        ("base" if sizes.adapters else "teacher", base),
        *learning_parts(config, learnt, "adapters" if sizes.adapters else "networks"),
        ("EMA", learnt) if not own else ("averages of 2", 2 * learnt),
        (PUBLISHED, (1 + (config.discriminator.backbone != "teacher")) * learnt),
        (f"{ACTIVATIONS} of {work}", most),
        (GROUPS, config.rollout.groups_per_cycle // config.learner.ranks * group),
    )
    worker = base + sizes.adapters * FLOAT32 + config.merges_adapters * sizes.adapted * weight_bytes(config)
    judge = base if config.discriminator.backbone == "teacher" else worker
    half = BFLOAT16 if config.model.precision == "bfloat16" else FLOAT32
    encoding = sizes.others + (sizes.transformer if sizes.encoded_whole else 0)
    at_hand = (GROUPS, config.rollout.leases * group)  # its network makes activations for one of them
    acting = (process, ("student", worker), (ACTIVATIONS, activations.rollout()), at_hand)
    judging = (process, ("discriminator", judge), (ACTIVATIONS, activations.reward()), (GROUPS, group))
    encoded = (process, ("pipeline, until they are encoded", encoding * half))
    return (
        RoleMemory("driver", 1, (process,)),
        RoleMemory("metrics", 1, (process,)),
        RoleMemory("prompts", 1, encoded, config.rollout.num_gpus > 0, encoding * half),
        RoleMemory("rollout", config.rollout.actors, acting, config.rollout.num_gpus > 0, loaded),
        RoleMemory("reward", config.reward.workers, judging, config.reward.num_gpus > 0, loaded),
        RoleMemory("learner", config.learner.ranks, learner, config.learner.num_gpus > 0, loaded),
    )


def learning_parts(config: Config, learnt: int, kind: str) -> tuple[tuple[str, int], ...]:
    """What one rank holds of the networks that learn, and its bytes.

    Each has weights, gradients, Adam moments (two tensors a set; the student has one set for DMD and one for RL) and,
    under ZeRO, an update copy. ZeRO 1 and 2 split moments and copies over the ranks, ZeRO 3 weights and gradients too.
    Under ZeRO 3 there are, besides, the layers gathered for a pass: all of a network unless its activations are made
    again, as autograd keeps them for the backward pass; or, if that is more, what is whole before it is split, at the
    start. Offloaded, all but the weights in the network is in host memory, with a buffer of gradients and one more.

    Args:
        config: The configuration.
        learnt: Bytes of the weights of one network that learns, or of its adapters.
        kind: What they are.
    """
    learner = config.learner
    learning = 2 + (config.discriminator.backbone == "own")
    sets = learning + config.policy_gradient.enabled
    ranks = learner.ranks if learner.partitions_optimizer else 1
    all_weights = learning * learnt
    split = learner.partitions_weights
    held = all_weights // ranks if split else all_weights
    where = IN_HOST if learner.offload_optimizer else ""
    updates = (
        (f"{sets} moment sets{where}", 2 * sets * learnt // ranks),
        (f"update copies{where}", all_weights // ranks if learner.partitions_optimizer else 0),
    )
    gradients = f"gradients of {learning}{where if split else ''}"  # under ZeRO 3 they go where the moments are
    parts = ((f"weights of {learning} {kind}", held), (gradients, held), *updates)
    if learner.offload_optimizer:
        buffers = 1 if split else 2  # of split gradients one is counted already
        parts = (*parts, (f"gradient buffers{IN_HOST}", buffers * all_weights // ranks))
    if not split:
        return parts
    gathered = min(learnt, LIVE_BYTES) if learner.gradient_checkpointing else learnt
    whole = all_weights - sum(size for _, size in parts)
    return (*parts, ("weights gathered, or whole at the start", max(gathered, whole)))


def snapshots_held(workers: int, max_policy_age: int) -> int:
    """Most snapshots of one network in the object store: the newest, and the older ones that work was begun with.

    Work keeps its snapshot until it is done, which is at most `max_policy_age` versions later; at age 0 the one before
    is let go while the newest is loaded.
    """
    return 1 + min(workers, max(1, max_policy_age))


def object_store_demand(config: Config, sizes: Sizes) -> int:
    """Bytes the object store holds at most: groups not yet learned from and snapshots. Ray spills the rest.

    Pacing leases no more groups ahead than the age cap allows, and the buffer has its own cap. Snapshots of the
    discriminator count only where they carry a backbone beside its small heads.
    """
    age = config.rollout.max_policy_age
    snapshots = snapshots_held(config.rollout.actors, age)
    if config.discriminator.backbone != "teacher":
        snapshots += snapshots_held(config.reward.workers, age)
    learnt = (sizes.adapters or sizes.transformer) * FLOAT32
    ahead = (age + 1) * config.rollout.groups_per_cycle * group_bytes(config, sizes.latent)
    return min(ahead, config.buffer.max_bytes) + snapshots * learnt
