"""What the work of each role costs, computed from the architecture and a card."""

from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.config.sections import Resources
from advdmd_ray.models.families.flops import forward_flops
from advdmd_ray.models.families.kept import FLOAT32
from advdmd_ray.models.folder import LatentSpec
from advdmd_ray.models.sizes import largest_pipeline
from advdmd_ray.planning.cards import THREAD, Card
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.runs.needs.compute import Network, full_cycle_cost
from advdmd_ray.runs.needs.memory import Sizes, group_bytes


@dataclass(frozen=True, slots=True)
class Speeds:
    """What computed costs assume.

    Attributes:
        card: The GPU of the roles that have one.
        utilisation: Share of the peak that a network's products reach, in (0, 1].
        bandwidth: Bytes per second at which weights are published and loaded, and groups handed over and fetched.
    """

    card: Card
    utilisation: float = 0.4
    bandwidth: float = 1e9


@dataclass(frozen=True, slots=True)
class Work:
    """What computed costs know of a model.

    Attributes:
        network: The transformer as the count of compute has it.
        flops: Operations of its forward for one image.
        learnt: Weights that learn, of one network or of its adapters.
        latent: Shape of one latent.
    """

    network: Network
    flops: int
    learnt: int
    latent: LatentSpec

    @classmethod
    def of(cls, config: Config, sizes: Sizes) -> "Work":
        """That of a configuration's teacher.

        Raises:
            UserError: if its folder is missing or damaged.
        """
        info = largest_pipeline(config)
        flops = forward_flops(info, sizes.backbone).forward
        return cls(sizes.network, flops, sizes.adapters or sizes.transformer, sizes.latent)


def computed(config: Config, work: Work, speeds: Speeds) -> Costs:
    """Seconds of each role in a cycle in which every network learns.

    Forwards and backwards that are really made (`needs/compute.py`) at a share of the peak; publishing, loading,
    handing over and fetching by their bytes. Left out: heads, optimizers, the ranks' own exchange of gradients and
    weights, checkpoints, grids and judgements. A worker with a share of a GPU is told as if it were alone on it.
    """
    cost = full_cycle_cost(config, work.network, executed=True)
    groups = config.rollout.groups_per_cycle
    snapshot = work.learnt * FLOAT32
    snapshots = 1 + (config.discriminator.backbone == "own")

    def seconds(forwards: float, role: Resources) -> float:
        return forwards * work.flops / (_peak(config, role, speeds.card) * speeds.utilisation)

    group = group_bytes(config, work.latent) / speeds.bandwidth
    return Costs(
        generate=seconds(cost.rollout / groups, config.rollout),
        hand_over=group,
        score=seconds(cost.reward / groups, config.reward),
        cycle=seconds(cost.learner / config.learner.ranks, config.learner) + snapshots * snapshot / speeds.bandwidth,
        load=snapshot / speeds.bandwidth,
        fetch=groups * group,
        alone=True,
    )


def _peak(config: Config, role: Resources, card: Card) -> float:
    # A worker computes on one GPU, however many it reserves.
    return card.peak(config.model.precision) if role.num_gpus else role.threads * THREAD
