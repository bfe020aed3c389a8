"""Whether every worker finds a place: its CPUs, GPUs and memory against what the nodes offer, role by role."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from advdmd_ray.config import Config
from advdmd_ray.runs.doctor.finding import Finding, some
from advdmd_ray.runs.doctor.labels import homes_of
from advdmd_ray.runs.doctor.nodes import HERE, Node
from advdmd_ray.runs.needs.activations import settled
from advdmd_ray.runs.needs.amounts import amount
from advdmd_ray.runs.needs.memory import (
    ACTIVATIONS,
    Role,
    RoleMemory,
    Sizes,
    memory,
    placement,
    reserved,
)
from advdmd_ray.runs.needs.micro_batch import fitting_rows
from advdmd_ray.runs.needs.spilling import ray_disk, spilling
from advdmd_ray.runs.needs.texts import text_need

_SHOWN = {"process": "Python and its libraries"}
"""Names of parts of a worker's memory that a reader would not know."""
ROUNDING = 1e-9
SHARED_GPU = 0.5
"""Most of a GPU that two workers can have of the same one."""


def examine_roles(config: Config, sizes: Sizes, nodes: Sequence[Node]) -> list[Finding]:
    """One finding for each role: its memory, the largest part of it, and whether a worker of it fits a node.

    Args:
        config: The configuration.
        sizes: Of the teacher's folder.
        nodes: One or more.
    """
    roles = {role.name: role for role in placement(config)}
    auto = _auto_rows(config, sizes, nodes)
    config = settled(config, auto.get)
    held = {row.role: row for row in memory(config, sizes)}
    encoding = Role("prompts", 1, 0.0, config.rollout.num_gpus, roles["rollout"].where)
    rows = (encoding, roles["rollout"], roles["reward"], roles["learner"])
    # What the largest node lacks is what stands in the way.
    size: Callable[[Node], tuple[float, float, float]] = lambda node: (node.gpus, node.cpus, node.memory)  # noqa: E731 - a key
    homes = {role: sorted(there, key=size, reverse=True) for role, there in homes_of(config, nodes).items()}
    # No GPU anywhere is one fault of the whole machine or cluster, not of every role.
    asked = rows if any(node.gpus for node in nodes) else [replace(role, num_gpus=0.0) for role in rows]
    findings = [
        _examine_role(config, role, held[role.name], homes["rollout" if role is encoding else role.name], need)
        for role, need in zip(rows, asked, strict=True)
    ]
    unknown = {name for name in auto if config.roles[name].num_gpus and not _gpu_memories(nodes)}
    taken = {
        name: "as many rows as fit; counted is one" if name in unknown else f"{_rows_text(rows)} at a time"
        for name, rows in auto.items()
    }
    return [
        replace(finding, text=f"{finding.text}; micro_batch=auto takes {taken[finding.subject]}")
        if finding.subject in auto
        else finding
        for finding in findings
    ]


def _gpu_memories(nodes: Sequence[Node]) -> list[float]:
    """Of one GPU of each node that has some and says how large they are."""
    return [node.gpu_memory for node in nodes if node.gpus and node.gpu_memory is not None]


def _auto_rows(config: Config, sizes: Sizes, nodes: Sequence[Node]) -> dict[str, int | None]:
    """What `micro_batch=auto` of each role that has it is estimated to take on the smallest GPU; 1 if unknown."""
    known = _gpu_memories(nodes)
    found: dict[str, int | None] = {}
    for name, section in config.roles.items():
        if section.micro_batch != "auto":
            continue
        if not section.num_gpus:
            found[name] = None
        elif known:
            found[name] = fitting_rows(config, sizes, name, min(1.0, section.num_gpus) * min(known))
        else:
            found[name] = 1
    return found


def _rows_text(rows: int | None) -> str:
    return "all rows" if rows is None else some(rows, "row")


def _examine_role(config: Config, role: Role, row: RoleMemory, nodes: Sequence[Node], need: Role) -> Finding:
    name, size = row.largest
    each = "" if row.workers == 1 else " each"
    if row.workers > 1 and row.host_of_another < row.host:
        each = f" in the first, {amount(row.host_of_another)} of host memory in each other"
    where = f"{amount(row.gpu)} on a GPU and {amount(row.host)} in host memory" if row.on_gpu else amount(row.host)
    most = f"the largest part is {_SHOWN.get(name, name)}, {amount(size)}"
    text = f"{some(row.workers, 'worker')}, {where}{each}; {most}"
    lacks = [lack for node in nodes if (lack := _lack(config, need, row, node)) is not None]
    if len(lacks) == len(nodes):
        return Finding(role.name, "change", f"{text}; {lacks[0]}")
    if role.num_gpus > 1:
        idle = f"a worker computes on one GPU, so {role.num_gpus - 1:g} of {role.num_gpus:g} idle; set it to 1"
        return Finding(role.name, "note", f"{text}; {idle}")
    if row.on_gpu and all(node.gpu_memory is None for node in nodes):
        return Finding(role.name, "note", f"{text}; how much a GPU has is not known here")
    return Finding(role.name, "ok", text)


def _lack(config: Config, role: Role, row: RoleMemory, node: Node) -> str | None:
    """What a node has too little of for a worker, and what to change; None if the worker fits."""
    section = "rollout" if role.name == "prompts" else role.name
    if node.cpus < role.num_cpus:
        return f"{node.name} has {node.cpus:g} CPUs, a worker asks for {role.num_cpus:g}; lower {section}.num_cpus"
    if node.gpus < role.num_gpus:
        return f"{node.name} has {node.gpus:g} GPUs, a worker asks for {role.num_gpus:g}; lower {section}.num_gpus"
    if node.memory < row.host:
        through = "networks go to a GPU through host memory: use a machine with more of it"
        return f"{node.name} has {amount(node.memory)}; {through if row.on_gpu else _remedy(config, role.name, row)}"
    # Workers that share a GPU share its memory.
    share = min(1.0, role.num_gpus) * node.gpu_memory if node.gpu_memory is not None else None
    if share is not None and share < row.gpu:
        return f"a worker's share of a GPU of {node.name} is {amount(share)}; {_remedy(config, role.name, row)}"
    return None


def _remedy(config: Config, role: str, row: RoleMemory) -> str:
    """The setting that shrinks the largest part of a worker."""
    name, _ = row.largest
    if name.startswith(ACTIVATIONS):
        most = config.roles[role].most_rows
        if most is None or most > 1:
            return f"set {role}.micro_batch={1 if most is None else most // 2}"
        if role == "learner" and not config.learner.gradient_checkpointing:
            return "set learner.gradient_checkpointing=true"
        buckets = bool(config.data.buckets)
        return "leave out the largest of data.buckets" if buckets else "set a smaller model.height and model.width"
    if role in config.roles and not config.lora.rank and name != "process":
        return "set lora.rank above 0, so that workers share a frozen base and only adapters learn"
    if config.model.precision == "float32" and name != "process":
        return "set model.precision=bfloat16"
    smaller = config.lora.rank and config.model.quantization is None and name in {"base", "student", "discriminator"}
    return f"{'set model.quantization=int8, or ' if smaller else ''}use a machine with more memory"


def examine_placement(config: Config, nodes: Sequence[Node]) -> Finding:
    """All workers together must fit what the nodes offer, and should not crowd a machine's cores."""
    rows = [role for role in placement(config) if role.num_cpus or role.num_gpus]
    (cpus, gpus), processes = reserved(rows), sum(role.workers for role in placement(config))
    offered, devices = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    text = f"{processes} worker processes ask for {cpus:g} of {offered:g} CPUs"
    if gpus:
        text += f" and {gpus:g} of {devices:g} GPUs"
    short = [key for key, need, have in (("num_cpus", cpus, offered), ("num_gpus", gpus, devices)) if need > have]
    if short:
        add = "" if _is_local(nodes) else ", or add nodes"
        return Finding(
            "placement", "change", f"{text}; lower the {' and '.join(short)} of a role, or rollout.actors{add}"
        )
    wide = sum(role.workers * math.ceil(role.num_gpus) for role in rows if role.num_gpus > SHARED_GPU)
    if wide > devices:
        return Finding(
            "placement",
            "change",
            f"{text}, but {wide} GPUs are wanted by workers of more than half of one, of which no two share a GPU; set "
            f"their num_gpus to {SHARED_GPU:g} or less, or lower rollout.actors",
        )
    left = _unplaced(rows, nodes, homes_of(config, nodes))
    if left:
        return Finding("placement", "note", f"{text}; a {left} worker may find no node with all it needs left")
    computing = [role for role in placement(config) if role.name in config.roles and not role.num_gpus]
    threads = sum(role.workers * config.roles[role.name].threads for role in computing)
    if threads > 2 * offered:
        return Finding("placement", "note", f"{text}; together they compute with {threads} threads")
    most = max(node.cpus for node in nodes)
    for name, section in config.roles.items():
        if section.threads > most:
            slow = f"a worker of {name} computes with {section.threads} threads on at most {most:g} cores"
            return Finding("placement", "note", f"{text}; {slow}: lower {name}.threads")
    return Finding("placement", "ok", text)


def _is_local(nodes: Sequence[Node]) -> bool:
    return [node.name for node in nodes] == [HERE]


def _unplaced(rows: Sequence[Role], nodes: Sequence[Node], homes: Mapping[str, Sequence[Node]]) -> str:
    """The first role with a worker for which no node has room, the largest workers first; empty if all are placed.

    A share of a GPU is a share of one: 0.6 and 0.6 do not fit 1 and 0.2 left on two of them.
    """
    cpus, gpus = [node.cpus for node in nodes], [[1.0] * int(node.gpus) for node in nodes]
    size: Callable[[Role], tuple[float, float]] = lambda role: (role.num_gpus, role.num_cpus)  # noqa: E731 - a key
    for role in sorted(rows, key=size, reverse=True):
        count, share = math.ceil(role.num_gpus), min(role.num_gpus, 1.0) - ROUNDING
        for _ in range(role.workers):
            place = next(
                (
                    place
                    for place, free in enumerate(gpus)
                    if nodes[place] in homes[role.name]
                    and cpus[place] >= role.num_cpus
                    and sum(left >= share for left in free) >= count
                ),
                None,
            )
            if place is None:
                return role.name
            cpus[place] -= role.num_cpus
            for gpu in [gpu for gpu, left in enumerate(gpus[place]) if left >= share][:count]:
                gpus[place][gpu] -= share + ROUNDING
    return ""


def examine_memory(config: Config, sizes: Sizes, nodes: Sequence[Node], *, processes: bool = True) -> Finding:
    """Host memory of all workers together, of a local Ray with its object store, of one process with encoded texts.

    Args:
        config: The configuration.
        sizes: Of the teacher's folder.
        nodes: One or more.
        processes: Whether workers are processes of Ray; else one process does the work of one worker of each role.
    """
    rows, local = memory(config, sizes), _is_local(nodes)
    if not processes:
        rows = tuple(replace(row, workers=1) for row in rows if row.role not in {"driver", "metrics"})
    if processes:
        beside, named = (config.ray.object_store_bytes, "an object store") if local else (0, "")
    else:
        beside, named = text_need(config).in_store, "encoded texts"
    needed, offered = sum(row.host_of_all for row in rows) + beside, sum(node.memory for node in nodes)
    all_of = f"all workers and {named} of {amount(beside)}" if beside else "all workers"
    text = f"{all_of} need about {amount(needed)} of host memory, {amount(offered)} are there"
    if needed <= offered:
        return Finding("memory", "ok", text)
    worst = max(rows, key=lambda row: row.host_of_all)
    count = {"rollout": "rollout.actors", "reward": "reward.workers", "learner": "learner.ranks"}.get(worst.role)
    fewer = f"; {worst.role} needs the most: lower {count}" if count and worst.workers > 1 else ""
    smaller = ", or add nodes" if not local else ", or lower ray.object_store_bytes" if processes else ""
    remedy = fewer or f"; {worst.role} needs the most: {_remedy(config, worst.role, worst)}"
    return Finding("memory", "change", f"{text}{remedy}{smaller}")


def examine_store(config: Config, sizes: Sizes, nodes: Sequence[Node]) -> Finding:
    """What fills the object store against its size, and the disk against the rest; encoded texts are on every node."""
    local, texts = _is_local(nodes), len(nodes) * text_need(config).in_store
    found = spilling(config, sizes, sum(node.object_store for node in nodes), ray_disk() if local else None, texts)
    state = "ok" if not found.spills else "note" if found.fits else "change"
    return Finding("object store", state, found.text)


def examine_texts(config: Config) -> Finding:
    """The encoded texts: where they are, how much they take, and whether there is room."""
    need = text_need(config)
    return Finding("texts", "change" if not need.fits else "note" if need.wants_folder else "ok", need.text)
