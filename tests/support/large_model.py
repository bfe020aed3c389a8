"""The sizes of a model that needs a GPU, without its files."""

from advdmd_ray.models.families.kept import FLUX_JOINT, Backbone
from advdmd_ray.models.folder import LatentSpec
from advdmd_ray.runs.needs.compute import Network
from advdmd_ray.runs.needs.memory import Sizes

SIZES = Sizes(
    transformer=2 * 10**9,
    others=10**9,
    latent=LatentSpec(16, 128, 128),
    backbone=Backbone(width=1536, tokens=4352, blocks=(FLUX_JOINT,) * 24),
    network=Network(24),
    adapters=10**7,
)
