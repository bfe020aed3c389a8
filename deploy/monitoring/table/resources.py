"""Panels of how far a run is, and of what it takes."""

from deploy.monitoring.panel import Look, Panel, Row, Unit
from deploy.monitoring.queries import formula, rate, value

_WAITING = 'sum by (run) (rate(advdmd_run_role_seconds_total{role="learner",state="waiting"}[$__rate_interval]))'
_ALL = 'sum by (run) (rate(advdmd_run_role_seconds_total{role="learner"}[$__rate_interval]))'

RUN = (
    Panel(
        Row.RUN,
        "Runs",
        Unit.NUMBER,
        "What runs: package, commit, start of its configuration's digest, teacher. Healthy: what you meant to run.",
        (formula("advdmd_run_info", "", "version", "commit", "config", "model"),),
        Look.NAME,
        width=18,
    ),
    Panel(
        Row.RUN,
        "Ended",
        Unit.NUMBER,
        "How a run ended, if it has within the time shown. Healthy: completed.",
        (formula("last_over_time(advdmd_run_finished[$__range]) == 1", "", "outcome"),),
        Look.NAME,
        width=6,
    ),
    Panel(
        Row.RUN,
        "Cycle",
        Unit.NUMBER,
        "Learner cycles completed, and planned (run.cycles).",
        (value("advdmd_run_cycle", "done"), value("advdmd_run_cycles_planned", "planned")),
        Look.NUMBER,
        width=6,
    ),
    Panel(
        Row.RUN,
        "Time",
        Unit.SECONDS,
        "Since training began, and estimated to the last cycle.",
        (value("advdmd_run_elapsed_seconds", "elapsed"), value("advdmd_run_remaining_seconds", "left")),
        Look.NUMBER,
        width=6,
    ),
    Panel(
        Row.RUN,
        "Phase",
        Unit.NUMBER,
        "Phase of the cadence: warm, ramp, then full. Stuck in warm: see the turns without RL.",
        (formula("advdmd_run_phase_active == 1", "", "phase"),),
        Look.NAME,
        width=4,
    ),
    Panel(
        Row.RUN,
        "Start",
        Unit.SECONDS,
        "Time of each stage from the start of the run to the end of its first cycle.",
        (value("advdmd_run_start_seconds"),),
        Look.NUMBER,
    ),
)
RESOURCES = (
    Panel(
        Row.RESOURCES,
        "Workers by what they do",
        Unit.NUMBER,
        "Busy, waiting for work, blocked by another station, or down. Healthy: the learner busy, nobody down.",
        (rate("advdmd_run_role_seconds_total"),),
        width=12,
    ),
    Panel(
        Row.RESOURCES,
        "Learner's wait for groups",
        Unit.SHARE,
        "Share of its time. Healthy: below autoscale.learner_waits; above, add actors or reward workers.",
        (formula(f"{_WAITING} / {_ALL}"),),
        width=6,
    ),
    Panel(
        Row.RESOURCES,
        "Workers alive",
        Unit.NUMBER,
        "By role. Healthy: as many as the settings ask for.",
        (value("advdmd_run_workers"),),
        width=6,
    ),
    Panel(
        Row.RESOURCES,
        "Resident memory",
        Unit.BYTES,
        "Summed over the workers of a role. Healthy: level after the first cycles.",
        (value("advdmd_run_resident_memory_bytes"),),
        width=6,
    ),
    Panel(
        Row.RESOURCES,
        "GPU memory",
        Unit.BYTES,
        "What torch holds, by role; of the learner rank 0's. Healthy: level. Empty without GPUs.",
        (value("advdmd_run_gpu_memory_bytes"),),
        width=6,
    ),
    Panel(
        Row.RESOURCES,
        "GPU utilisation",
        Unit.SHARE,
        "Share of time the GPUs of a role compute, as work ends. Healthy: high, the learner's above all.",
        (value("advdmd_run_gpu_utilisation"),),
        width=6,
    ),
    Panel(
        Row.RESOURCES,
        "Object store",
        Unit.BYTES,
        "Ray's object store on all nodes, in use and in all. Healthy: well below; a full one spills to disk.",
        (
            value("advdmd_run_object_store_bytes", "in use"),
            value("advdmd_run_object_store_capacity_bytes", "in all"),
        ),
        width=6,
    ),
)
