"""What adapters and the frozen base under them ask of the other settings."""

from advdmd_ray.config.inputs import LoraSection, ModelSection
from advdmd_ray.config.sections import LearnerSection


def check_adapters(model: ModelSection, lora: LoraSection, learner: LearnerSection, *, merges: bool) -> None:
    """Compare what is said of adapters, of their base and of who learns.

    Args:
        model: How the base is stored.
        lora: The adapters, if there are any.
        learner: Where its parts are, and what its graphs keep.
        merges: Whether actors and reward workers merge adapters into the weights.

    Raises:
        ValueError: if they do not fit; what is not, and what to set.
    """
    if lora.rank and learner.partitions_weights:
        raise ValueError(
            f"learner.zero_stage=3 would split the base that all roles' adapters share, got lora.rank={lora.rank}; set "
            "learner.zero_stage=1, which splits the adapters' states, and for a smaller base model.quantization=int8; "
            "or lora.rank=0"
        )
    if model.quantization is None:
        return
    said = f"model.quantization={model.quantization}"
    if not lora.rank:
        raise ValueError(f"{said} is for a frozen base under adapters, got lora.rank=0; raise it or leave {said} out")
    if model.precision != "bfloat16":
        raise ValueError(f"{said} needs model.precision=bfloat16, got {model.precision}; set it")
    if merges:
        raise ValueError(
            f"{said} has no weights that adapters could be added to, got lora.merge=true; set lora.merge=false"
        )
    if not learner.gradient_checkpointing:
        raise ValueError(
            f"{said} saves nothing where a graph keeps all weights in bfloat16; set learner.gradient_checkpointing=true"
        )
