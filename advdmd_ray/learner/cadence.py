"""The cadence automaton: which network learns in which cycle. No other module counts steps.

Phases: `warm` (fake score, discriminator and DMD only), `ramp` (RL once every m DMD updates, m halving to 1) and
`full` (RL in every cycle). The paper defers full GRPO updates until the other parts are stable (arXiv 2604.28126,
abstract); the numbers here are ours.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from advdmd_ray.config import Config
from advdmd_ray.config.objectives import CadenceSection
from advdmd_ray.learner.health import Health

Phase = Literal["warm", "ramp", "full"]


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """Number of updates of each kind in one cycle.

    Attributes:
        phase: Phase of the automaton.
        fake_score: Fake-score updates.
        discriminator: Discriminator updates; 0 while it is overpowering, or where it is not used.
        dmd: Student updates by distribution matching.
        policy_gradient: RL turns, 0 or 1.
        gated: Whether an RL turn is due, but no level that it would use is open.
        silent: Whether an RL turn is due and a level open, but every advantage of the cycle is 0, or no action reached
            an update of the turn.
        gan: Whether the DMD updates have the direct GAN term, if `dmd.gan_weight` gives it a weight.
    """

    phase: Phase
    fake_score: int
    discriminator: int
    dmd: int
    policy_gradient: int
    gated: bool = False
    silent: bool = False
    gan: bool = True


@dataclass(frozen=True, slots=True)
class CadenceState:
    """All that the automaton remembers; saved in every checkpoint.

    Attributes:
        phase: Current phase.
        interval: DMD updates per RL turn, m.
        turns_at_interval: RL turns made at this interval.
        dmd_since_rl: DMD updates since the last RL turn.
        dmd_updates: DMD updates in all.
        rl_turns: RL turns in all.
        rl_began: Cycle of the first RL turn, from 0, where RL's learning rate begins; None before it.
    """

    phase: Phase
    interval: int
    turns_at_interval: int = 0
    dmd_since_rl: int = 0
    dmd_updates: int = 0
    rl_turns: int = 0
    rl_began: int | None = None


class Cadence:
    """The automaton. `plan` moves it by one cycle and says what this cycle does."""

    def __init__(self, config: CadenceSection, *, policy_gradient: bool) -> None:
        self._config = config
        self._policy_gradient = policy_gradient
        self.state = CadenceState(phase="warm", interval=config.ramp_interval)
        self._without_turn = self.state

    def plan(
        self,
        health: Health,
        used: Sequence[bool] | None = None,
        *,
        heard: bool = True,
        own: bool = False,
        measured: bool = True,
    ) -> CyclePlan:
        """Decides one cycle and records it.

        Args:
            health: Of the discriminator, measured before this cycle's updates.
            used: Levels whose score enters an advantage at all; None: all.
            heard: Whether an advantage of the cycle differs from 0.
            own: Whether a user's own reward enters the advantages, which hangs on no level.
            measured: Whether the health is of this cycle. The discriminator rests in no other, or one that is measured
                seldom would rest for long.

        Returns:
            The updates of the cycle. RL needs at least one open level, or a reward that needs none, and one advantage;
            a due turn without is gated or silent, counts for nothing and stays due.
        """
        config, state = self._config, self.state
        read = (True,) * len(health.auc) if used is None else used
        levels = zip(health.open_levels, read, strict=True)
        any_open = own or any(is_open and wanted for is_open, wanted in levels)
        warm = state.phase == "warm"
        # In every phase: where a run goes on with more of them, its groups are again those that no RL learns from.
        over = state.dmd_updates >= config.warm_dmd_updates
        due = self._policy_gradient and over and (warm or state.dmd_since_rl >= state.interval)
        turn = due and any_open and heard
        gan = state.dmd_updates >= config.warm_gan_updates
        self.state = self._without_turn = self._after_dmd(state)
        if turn:
            self.state = self._after_dmd(self._after_turn(state))
        return CyclePlan(
            phase=self.state.phase,
            fake_score=config.fake_score_updates * config.dmd_updates,
            discriminator=0 if measured and health.overpowering else config.discriminator_updates * config.dmd_updates,
            dmd=config.dmd_updates,
            policy_gradient=int(turn),
            gated=due and not any_open,
            silent=due and any_open and not heard,
            gan=gan,
        )

    def withdraw(self, plan: CyclePlan) -> CyclePlan:
        """The RL turn just planned came to nothing: it counts for nothing and stays due, as a silent one."""
        self.state = self._without_turn
        return replace(plan, phase=self.state.phase, silent=True)

    def _after_dmd(self, state: CadenceState) -> CadenceState:
        made = self._config.dmd_updates
        return replace(state, dmd_updates=state.dmd_updates + made, dmd_since_rl=state.dmd_since_rl + made)

    def _after_turn(self, state: CadenceState) -> CadenceState:
        """Counts an RL turn; after `ramp_rl_turns` turns at one interval the interval halves, at 1 the ramp ends."""
        if state.phase == "warm":
            state = replace(state, phase="ramp" if self._config.ramp_interval > 1 else "full")
        cycle = state.dmd_updates // self._config.dmd_updates
        state = replace(
            state,
            rl_turns=state.rl_turns + 1,
            dmd_since_rl=0,
            turns_at_interval=state.turns_at_interval + 1,
            rl_began=cycle if state.rl_began is None else state.rl_began,
        )
        if state.phase == "ramp" and state.turns_at_interval >= self._config.ramp_rl_turns:
            interval = max(1, state.interval // 2)
            state = replace(state, interval=interval, turns_at_interval=0, phase="full" if interval == 1 else "ramp")
        return state

    def to_facts(self) -> dict[str, Any]:
        """The state as JSON-able facts for a checkpoint."""
        return asdict(self.state)

    def restore(self, facts: dict[str, Any]) -> None:
        """Continues from the facts of a checkpoint."""
        known = {field.name for field in fields(CadenceState)}
        self.state = CadenceState(**{name: fact for name, fact in facts.items() if name in known})


def measures(config: Config, version: int) -> bool:
    """Whether the learner measures its discriminator, if it does at all, in the cycle after `version` cycles."""
    return config.measures_auc and Every(config.cadence.measure_cycles).due(version + 1)


class Every:
    """Says when something that happens every n cycles is due, never for n = 0; robust against resuming in between."""

    def __init__(self, cycles: int) -> None:
        self._cycles = cycles

    def due(self, version: int) -> bool:
        """Whether it is due after `version` completed cycles."""
        return self._cycles > 0 and version > 0 and version % self._cycles == 0
