"""The whole plan of a configuration: its own split, the best one, what both need; as text and as JSON."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from advdmd_ray.config import Config
from advdmd_ray.planning.forecast import forecast
from advdmd_ray.planning.split import Planned, best, on_shared_cards
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.runs.doctor.finding import some
from advdmd_ray.runs.needs.activations import settled
from advdmd_ray.runs.needs.amounts import amount
from advdmd_ray.runs.needs.memory import (
    ACTIVATIONS,
    RoleMemory,
    Sizes,
    group_bytes,
    memory,
    object_store_demand,
    placement,
    reserved,
)
from advdmd_ray.runs.needs.micro_batch import HEADROOM, fitting_rows
from advdmd_ray.runs.needs.sharing import Split

HOUR = 3600


@dataclass(frozen=True, slots=True)
class RoleNeeds:
    """Memory of one worker of a role.

    Attributes:
        held: Bytes in GPU memory between two calls of a network.
        used: Bytes in GPU memory at most, with the rows of a call that `micro_batch` or auto gives.
        card: Bytes of GPU memory that it has; 0 without a GPU.
    """

    held: int
    used: int
    card: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What a split occupies.

    Attributes:
        roles: By role.
        host: Host memory of all workers together, bytes.
        store: Bytes that groups and snapshots fill of the object store.
        cpus: Logical CPUs that are reserved.
        gpus: GPUs that are reserved.
    """

    roles: Mapping[str, RoleNeeds]
    host: int
    store: int
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A split, what comes of it, and what it occupies."""

    planned: Planned
    needs: Needs

    @property
    def gpu_seconds(self) -> float:
        """Seconds of a cycle, times its GPUs."""
        return self.planned.split.gpus * self.planned.forecast.cycle_s


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan.

    Attributes:
        own: The configuration's split.
        costs: Seconds of its work.
        best: The fastest split; None if none fits.
        thriftiest: The one with the fewest GPU seconds a cycle.
    """

    own: Choice
    costs: Costs
    best: Choice | None
    thriftiest: Choice | None

    def as_json(self) -> dict[str, Any]:
        """All of it, as `--json` prints it."""
        return asdict(self) | {"recommended": None if self.best is None else list(self.best.planned.split.overrides)}


def plan(config: Config, sizes: Sizes, *, card: int, gpus: int, costs: Callable[[Config], Costs], search: bool) -> Plan:
    """Forecasts the configuration's split and looks for the best one.

    Args:
        config: The run's.
        sizes: Of the teacher's folder.
        card: Bytes of memory of a GPU.
        gpus: GPUs that there are; 0: none.
        costs: Seconds of the work of a configuration.
        search: Whether to look for another split.
    """
    size = group_bytes(config, sizes.latent)
    predicted = partial(forecast, group_bytes=size)

    def found(*, thrifty: bool) -> Choice | None:
        fits = partial(_fits, sizes=sizes, card=card)
        planned = best(config, gpus, costs=costs, fits=fits, predicted=predicted, thrifty=thrifty) if search else None
        changed = None if planned is None else planned.split.applied(config)
        return None if planned is None or changed is None else Choice(planned, needs(changed, sizes, card))

    own = Planned(Split.of(config), predicted(config, costs(config)))
    return Plan(Choice(own, needs(config, sizes, card)), costs(config), found(thrifty=False), found(thrifty=True))


def needs(config: Config, sizes: Sizes, card: int) -> Needs:
    """Memory, CPUs and GPUs of a configuration on cards of so many bytes."""
    gpus = {role: section.num_gpus for role, section in config.roles.items()}
    rows = {role: fitting_rows(config, sizes, role, each * card) if each else None for role, each in gpus.items()}
    table = memory(settled(config, rows.__getitem__), sizes)
    cpus, cards = reserved(placement(config))
    return Needs(
        roles={row.role: _role_needs(row, int(gpus[row.role] * card)) for row in table if row.role in gpus},
        host=sum(row.host_of_all for row in table),
        store=object_store_demand(config, sizes),
        cpus=cpus,
        gpus=cards,
    )


def _role_needs(row: RoleMemory, card: int) -> RoleNeeds:
    calls = sum(size for name, size in row.parts if name.startswith(ACTIVATIONS))
    return RoleNeeds(held=row.gpu - calls if row.on_gpu else 0, used=row.gpu, card=card)


def _fits(config: Config, *, sizes: Sizes, card: int) -> bool:
    return all(role.used <= HEADROOM * role.card for role in needs(config, sizes, card).roles.values() if role.card)


def plan_text(plan: Plan, config: Config, *, gpus: int, nodes: int, assumed: str) -> str:
    """The plan for a reader.

    Args:
        plan: The plan.
        config: What it is of.
        gpus: GPUs that there are.
        nodes: Nodes that they are on.
        assumed: What the costs are from, a line.
    """
    lines = [f"costs: {assumed}"]
    costs = plan.costs
    lines.append(
        f"  a group takes an actor {costs.generate:,.3g} s and {costs.hand_over:,.2g} s to hand it over, and a reward "
        f"worker {costs.score:,.3g} s; a cycle of {config.rollout.groups_per_cycle} groups takes the learner "
        f"{costs.cycle:,.3g} s; loads take {costs.load:,.2g} s"
    )
    own = plan.own.planned
    lines += ["", f"as configured: {_split_text(own.split)}", *_outcome(plan.own, plan.costs, config, nodes)]
    lines += [f"  note: {note}" for note in _notes(plan, config)]
    if plan.best is None or plan.thriftiest is None:
        lines += ["", f"no split of {gpus} GPUs fits" if gpus else "nothing else is looked for without GPUs"]
        return "\n".join(lines) + "\n"
    best, thriftiest = plan.best.planned, plan.thriftiest.planned
    if best.split == own.split:
        lines += ["", f"no other split of {gpus} GPUs is faster"]
    else:
        gain = own.forecast.cycle_s / best.forecast.cycle_s
        lines += ["", f"recommended for {gpus} GPUs: {_split_text(best.split)}, {gain:.2f} times as fast"]
        lines += [*_outcome(plan.best, plan.costs, config, nodes), f"  {' '.join(best.split.overrides)}"]
    if thriftiest.split not in (own.split, best.split):
        share = plan.thriftiest.gpu_seconds / plan.best.gpu_seconds
        lines += ["", f"fewest GPU seconds, {share:.2f} of these: {_split_text(thriftiest.split)}"]
        lines += [*_outcome(plan.thriftiest, plan.costs, config, nodes), f"  {' '.join(thriftiest.split.overrides)}"]
    return "\n".join(lines) + "\n"


def _split_text(split: Split) -> str:
    each = zip((split.actors, split.workers, split.ranks), ("rollout", "reward", "learner"), split.shares, strict=True)
    counted = ", ".join(f"{count} {role}{f' of {gpus:g} GPU' if 0 < gpus < 1 else ''}" for count, role, gpus in each)
    return f"{counted}, on {split.gpus} GPUs" if split.gpus else counted


def _outcome(choice: Choice, costs: Costs, config: Config, nodes: int) -> list[str]:
    seen, needed, split = choice.planned.forecast, choice.needs, choice.planned.split
    ages = (
        f"policy age {seen.age_mean:.2f} in the mean and {seen.age_max} at most (cap {config.rollout.max_policy_age})"
    )
    held = f"the buffer holds {amount(seen.buffer_bytes)} at most (cap {amount(config.buffer.max_bytes)})"
    lines = [
        f"  {seen.trajectories_per_s:,.3g} trajectories/s, {seen.cycle_s:,.3g} s a cycle between checkpoints and grids",
        f"  {ages}; {held}",
        f"  {'role':<9}{'busy':>7}{'waiting':>9}{'blocked':>9}   memory of its GPU",
    ]
    if split.gpus:
        hours = choice.gpu_seconds * config.run.cycles / HOUR
        lines[0] += (
            f"; {choice.gpu_seconds:,.3g} GPU seconds, {hours:,.3g} GPU hours for run.cycles={config.run.cycles}"
        )
    for role in config.roles:
        shares, of = seen.shares[role], needed.roles[role]
        states = f"{shares['busy']:>7.0%}{shares['waiting']:>9.0%}{shares['blocked']:>9.0%}"
        lines.append(f"  {role:<9}{states}   {_memory(of)}")
    lines += _shared_cards(choice, costs, config)
    each = f"{amount(needed.host / nodes)} of host memory and {amount(needed.store)} of object store on "
    each += "the node" if nodes == 1 else f"each of {nodes} nodes, if workers are spread evenly"
    lines.append(f"  {each}; {needed.cpus:g} CPUs reserved in all")
    return lines


def _shared_cards(choice: Choice, costs: Costs, config: Config) -> list[str]:
    """How busy the cards are that workers share, if costs know it."""
    split = choice.planned.split
    if not costs.alone or split.shared is None:
        return []
    busy = config.rollout.groups_per_cycle * on_shared_cards(split, costs) / choice.planned.forecast.cycle_s
    roles, cards = " and ".join(split.shared.roles), some(split.shared.cards, "card")
    return [f"  {roles} share {cards}, busy {busy:.0%}; who is busy there may wait for another's turn"]


def _memory(of: RoleNeeds) -> str:
    if not of.card:
        return "no GPU"
    return f"{amount(of.held)} held, {amount(of.used)} in use at most, of {amount(of.card)} ({of.used / of.card:.0%})"


def _notes(plan: Plan, config: Config) -> list[str]:
    notes = []
    if plan.costs.generate + plan.costs.hand_over + plan.costs.score > config.rollout.lease_s:
        notes.append("a group takes longer than rollout.lease_s, so it would be issued again: raise it")
    if plan.costs.cycle > config.learner.cycle_timeout_s:
        notes.append("a cycle takes longer than learner.cycle_timeout_s, which ends the run: raise it")
    for role, of in plan.own.needs.roles.items():
        if of.card and of.used > HEADROOM * of.card:
            notes.append(f"a {role} worker needs more than {HEADROOM:.0%} of its share of a GPU")
    return notes
