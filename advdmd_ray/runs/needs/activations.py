"""An upper estimate of activations, role by role, from the transformer's configuration; torch is not imported.

What a block keeps is in `models/families/kept.py`. Two sums are made of it:

* With a graph: what all blocks keep, or, with `learner.gradient_checkpointing`, one input a block and what the largest
  block keeps; and beside it what one block works with.
* Without a graph: what one block works with, 16 tensors of a token's width at most.

A call has `micro_batch` images at most, which with guidance are two rows each; calls of a larger batch are made one
after the other, and so are the graphs of a loss in parts (`learner/parts.py`). A network that learns as a whole under
bfloat16 is copied in half precision by autocast as long as a call lasts, and kept so by a graph. Not counted:
embeddings of text on their way in, latents, discriminator heads, DeepSpeed's buckets, what an allocator leaves unused.
`tests/models/families/test_kept.py` holds both sums against the tensors of real forwards and backwards, on CPUs; no GPU
was at hand.
"""

from collections.abc import Callable
from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.learner.parts import part_rows
from advdmd_ray.models.families.kept import ATTENTION, BFLOAT16, FLOAT32, Backbone, Kept
from advdmd_ray.runs.needs.compute import Network, guided_forward, learnt_actions

WORKING = Kept(norms=4, rest=12)
"""Most that a block works with at a time, in a forward, or in a backward pass beside what it kept (measured)."""
OUTSIDE = Kept(norms=2, rest=2)
"""Before the first block and after the last."""


def graph_bytes(
    backbone: Backbone,
    rows: int,
    product: int,
    *,
    depth: int | None = None,
    adapted: bool = False,
    checkpointing: bool = False,
    call: int | None = None,
) -> int:
    """Bytes of a forward with a graph and its backward pass, without weights and their gradients.

    Args:
        backbone: The transformer.
        rows: Images of the graph.
        product: Bytes of an element of a matrix product.
        depth: Blocks that run; None: all.
        adapted: Whether no weights learn but adapters of attention.
        checkpointing: Whether blocks keep their inputs only.
        call: Most images in one of the calls that the graph is made of; None: there is one.
    """
    kept = [(block.adapted if adapted else block.whole).size(product) for block in backbone.first(depth)]
    held = len(kept) * product if checkpointing else sum(kept) + OUTSIDE.size(product)
    worked = WORKING.size(product) + (max(kept) if checkpointing else 0)
    return _elements(backbone, rows) * held + _elements(backbone, rows if call is None else min(rows, call)) * worked


def forward_bytes(backbone: Backbone, rows: int, product: int) -> int:
    """Bytes of a forward without a graph, as in `graph_bytes`."""
    return _elements(backbone, rows) * WORKING.size(product)


def _elements(backbone: Backbone, rows: int) -> int:
    # The scales, shifts and gates of a row are a token's worth at most.
    return rows * (backbone.tokens + 1) * backbone.width


def settled(config: Config, rows: Callable[[str], int | None]) -> Config:
    """The configuration with a number in the place of every `micro_batch=auto`.

    Args:
        config: The run's.
        rows: From the name of a role to the most rows of a call; None: all.
    """
    return config.model_copy(
        update={
            name: section.model_copy(update={"micro_batch": rows(name)})
            for name, section in config.roles.items()
            if section.micro_batch == "auto"
        }
    )


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations of a run's workers.

    Args:
        config: Batches, parts and precision.
        backbone: The transformer.
        network: The transformer as the count of compute has it.
        weights: Its weights.
    """

    config: Config
    backbone: Backbone
    network: Network
    weights: int

    @property
    def _product(self) -> int:
        return BFLOAT16 if self.config.model.precision == "bfloat16" else FLOAT32

    @property
    def _depth(self) -> int:
        return max(self.config.discriminator.blocks) + 1

    @property
    def _adapted(self) -> bool:
        return bool(self.config.lora.rank) and ATTENTION.issuperset(self.config.lora.targets)

    @property
    def _judged(self) -> int:
        """States of one trajectory that a discriminator sees."""
        return self.config.steps - 1 + len(self.config.reward.final_levels)

    def _copies(self, depth: int | None = None) -> int:
        """Autocast's copies of the weights of a network that learns as a whole."""
        if self.config.lora.rank or self._product == FLOAT32:
            return 0
        run, blocks = len(self.backbone.first(depth)), len(self.backbone.first(None))
        return self.weights * BFLOAT16 * run // blocks

    def _forward(self, rows: int, most: int | None) -> int:
        return forward_bytes(self.backbone, rows if most is None else min(rows, most), self._product)

    def rows_at_once(self, role: str) -> int:
        """Most rows that a role has to do in one call, or in the learner with one graph, if nothing is parted."""
        config, ranks = self.config, self.config.learner.ranks
        match role:
            case "rollout":
                return config.last_group_size
            case "reward":
                return config.last_group_size * self._judged
            case _:
                batches = (config.fake_score.batch_size // ranks, config.dmd.batch_size // ranks)
                return max(*batches, self._actions if config.policy_gradient.enabled else 0)

    @property
    def _actions(self) -> int:
        """Actions of one RL update of a rank."""
        groups = self.config.rollout.groups_per_cycle // self.config.learner.ranks
        rows = self.config.rl_rows // self.config.policy_gradient.minibatches
        return groups * learnt_actions(self.config) * rows

    def rollout(self) -> int:
        """Bytes of one rollout actor, which runs the trajectories of a group together."""
        section = self.config.rollout
        return self._copies() + self._forward(self.config.last_group_size, section.most_rows)

    def reward(self) -> int:
        """Bytes of one reward worker, which judges all states of a group together; 0 where no network is asked."""
        config = self.config
        if config.rewarded_by != "discriminator" and not config.reward.oracle_agreement:
            return 0
        carried = self._copies(self._depth) if config.discriminator.backbone != "teacher" else 0
        return carried + self._forward(config.last_group_size * self._judged, config.reward.most_rows)

    def learner(self) -> dict[str, int]:
        """Bytes of one learner rank, by what it does; it does one thing after the other."""
        config, ranks = self.config, self.config.learner.ranks
        fake_rows, most = config.fake_score.batch_size // ranks, self._most
        work = {"a fake-score update": self._graph(part_rows(fake_rows, most))}
        work["a DMD update"] = self._dmd(config.dmd.batch_size // ranks)
        if config.policy_gradient.enabled:
            work["an RL update"] = self._graph(part_rows(self._actions, most))
        if config.cadence.discriminator_updates:
            work["a discriminator update"] = self._discriminator(config.discriminator.batch_size // ranks)
        if config.measures_auc:
            rows = min(config.discriminator.auc_rows, config.last_group_size)
            work["the AUC"] = self._forward((2 + 2 * config.measures_text) * rows * self._judged, most)
        return work

    @property
    def _most(self) -> int | None:
        return self.config.learner.most_rows

    def _graph(self, rows: int) -> int:
        """A graph of student or fake score."""
        frugal = self.config.learner.gradient_checkpointing
        held = graph_bytes(
            self.backbone, rows, self._product, adapted=self._adapted, checkpointing=frugal, call=self._most
        )
        return self._copies() + held

    def _features(self, rows: int) -> int:
        """A graph through the discriminator's backbone. A frozen teacher in 8 bits alone makes activations again."""
        learns = self.config.discriminator.backbone != "teacher"
        again = learns or self.config.model.quantization is not None
        frugal = again and self.config.learner.gradient_checkpointing
        # Autocast's copies are kept by the graph wherever the weights are float32, frozen or not.
        copies, adapted = self._copies(self._depth), self._adapted or not learns
        held = graph_bytes(
            self.backbone,
            rows,
            self._product,
            depth=self._depth,
            adapted=adapted,
            checkpointing=frugal,
            call=self._most,
        )
        return copies + held

    def _dmd(self, rows: int) -> int:
        """The student's graph, and beside it what is asked of one call after the other."""
        config, most = self.config, self._most
        an_image = guided_forward(config.model.guidance, self.network)
        group = config.dmd.batch_size // config.rollout.groups_per_cycle
        part = part_rows(rows, most, group if config.dmd.gan_weight > 0 else 1)
        beside = [self._forward(part * an_image, None if most is None else most * an_image)]
        if config.dmd.gan_weight > 0:
            beside.append(self._features(part_rows(part, most)))
        return self._graph(part) + max(beside)

    def _discriminator(self, rows: int) -> int:
        """Real and generated states of the pairs of a part, and those with another text or perturbed."""
        section, most = self.config.discriminator, self._most
        sides = 2 + (section.mismatched_text > 0)
        pairs = part_rows(rows, None if most is None else max(1, most // sides))
        if section.backbone != "own":
            return self._forward(sides * pairs, most)
        return self._features(sides * pairs) + (self._features(2 * pairs) if section.gradient_penalty > 0 else 0)
