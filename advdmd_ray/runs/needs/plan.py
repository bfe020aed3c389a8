"""The plan of a run as text: who runs where, and what memory they need."""

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.memory import MIB, group_bytes, memory, object_store_demand, placement, reserved, sizes_of
from advdmd_ray.runs.needs.texts import text_need


def plan_text(config: Config, *, local: bool = False) -> str:
    """Placement and memory as text.

    Args:
        config: The configuration.
        local: Whether one process is the whole run: it reserves nothing, and has no object store.

    Raises:
        UserError: if the pipeline folder is missing or damaged.
    """
    sizes = sizes_of(config)
    lines = ["placement", *(["  all workers are in this process, which reserves nothing"] if local else _rows(config))]
    adapters = f", a role's adapters {sizes.adapters:,}" if sizes.adapters else ""
    lines.append(f"\nmemory, estimated in MiB (the transformer has {sizes.transformer:,} weights{adapters})")
    lines.append(f"  {'each of':<13}{'GPU':>11}{'host':>11}  parts")
    roles = [row for row in memory(config, sizes) if not (local and row.role in ("driver", "metrics"))]
    for row in roles:
        parts = ", ".join(f"{name} {size / MIB:.1f}" for name, size in row.parts)
        lines.append(f"  {row.workers:>3} {row.role:<9}{row.gpu / MIB:>11,.1f}{row.host / MIB:>11,.1f}  {parts}")
    group, store = group_bytes(config, sizes.latent), 0 if local else config.ray.object_store_bytes
    cap = f"cap; a group has {group / MIB:.2f} and a cycle {config.rollout.groups_per_cycle} groups"
    lines.append(f"  {'buffer':<24}{config.buffer.max_bytes / MIB:>11,.1f}  {cap}")
    texts = text_need(config)
    lines.append(f"  {'texts':<24}{texts.total / MIB:>11,.1f}  {texts.text}")
    if not local:
        fill = object_store_demand(config, sizes) + texts.in_store
        demand = f"of a local Ray; groups, snapshots and texts fill {fill / MIB:,.1f}"
        lines.append(f"  {'store':<24}{store / MIB:>11,.1f}  {demand}")
    on_gpus, total = sum(row.workers * row.gpu for row in roles), sum(row.host_of_all for row in roles) + store
    without = "discriminator heads" if local else "discriminator heads and Ray's own processes"
    of_all = f"  {'total':<13}{on_gpus / MIB:>11,.1f}{total / MIB:>11,.1f}  "
    lines.append(f"{of_all}what one node that has the whole run needs, without {without}")
    lines.append("")
    return "\n".join(lines)


def _rows(config: Config) -> list[str]:
    """The workers of every role on Ray, and what they reserve."""
    rows = placement(config)
    cpus, gpus = reserved(rows)
    return [
        f"  {'role':<9}{'workers':>8}{'CPUs':>7}{'GPUs':>7}  where",
        *(f"  {r.name:<9}{r.workers:>8}{r.num_cpus:>7g}{r.num_gpus:>7g}  {r.where}" for r in rows),
        f"  {'total':<9}{sum(r.workers for r in rows):>8}{cpus:>7g}{gpus:>7g}",
    ]
