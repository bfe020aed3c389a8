"""Peaks and memory of GPUs, as their vendor's datasheets have them.

Datasheets since Hopper's print peaks of tensor cores with sparsity, twice those of dense products, which are meant
here. The figures were compared with what others copied from the datasheets: glennklockwood.com/garden/processors (A100
and H100: 312 and 989.4 TFLOP/s dense), mullet.se (L40S: 362.05, 733 with sparsity), waredb.com (RTX 4090: 165.2, 330.3
with sparsity), hmc-tech.com (B200: 2,250, 4,500 with sparsity; H200: as H100). Of the L4, hmc-tech.com computes half of
the datasheet's peak from clock and cores.
"""

from dataclasses import dataclass

TERA, GIGA = 10**12, 10**9


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU.

    Attributes:
        name: As `--device` has it.
        bfloat16: Peak of dense matrix products in bfloat16, operations per second.
        float32: Peak in float32 outside the tensor cores, operations per second.
        memory: Bytes: the datasheet's number in 10^9, though CUDA reports up to 7 % more of some cards.
        source: Where the figures are from.
    """

    name: str
    bfloat16: float
    float32: float
    memory: int
    source: str

    def peak(self, precision: str) -> float:
        """Operations per second in a precision of the configuration."""
        return self.bfloat16 if precision == "bfloat16" else self.float32


CARDS = {
    card.name: card
    for card in (
        Card("a100-40", 312 * TERA, 19.5 * TERA, 40 * GIGA, "NVIDIA A100 datasheet, SXM"),
        Card("a100-80", 312 * TERA, 19.5 * TERA, 80 * GIGA, "NVIDIA A100 datasheet, SXM"),
        Card("h100", 989 * TERA, 67 * TERA, 80 * GIGA, "NVIDIA H100 datasheet, SXM, half of the figure with sparsity"),
        Card("h200", 989 * TERA, 67 * TERA, 141 * GIGA, "NVIDIA H200 datasheet, SXM, half of the figure with sparsity"),
        Card("b200", 2250 * TERA, 75 * TERA, 180 * GIGA, "NVIDIA HGX B200 datasheet, half of the figure with sparsity"),
        Card("l4", 121 * TERA, 30.3 * TERA, 24 * GIGA, "NVIDIA L4 datasheet, half of the figure with sparsity"),
        Card("l40s", 362 * TERA, 91.6 * TERA, 48 * GIGA, "NVIDIA L40S datasheet, dense"),
        Card("rtx4090", 165.2 * TERA, 82.6 * TERA, 24 * GIGA, "NVIDIA Ada whitepaper, dense, summed in float32"),
    )
}
THREAD = 96 * GIGA
"""Peak of a CPU thread in float32: two fused multiply-adds of 8 lanes in each of 3 billion cycles a second (AVX2)."""
