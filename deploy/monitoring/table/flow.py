"""Panels of what passes between the stations: groups one way, weights the other."""

from deploy.monitoring.panel import Panel, Row, Unit
from deploy.monitoring.queries import at_most, mean, quantiles, rate, value

FLOW = (
    Panel(
        Row.FLOW,
        "Trajectories",
        Unit.PER_SECOND,
        "Generated, and consumed by the learner. Healthy: level with each other.",
        (
            rate("advdmd_rollout_trajectories_total", "generated"),
            value("advdmd_rollout_trajectories_per_second", "generated in the last cycle"),
            rate("advdmd_learner_trajectories_trained_total", "trained"),
        ),
    ),
    Panel(
        Row.FLOW,
        "Groups from station to station",
        Unit.PER_SECOND,
        "Groups leased, generated, scored and committed. Healthy: level with each other.",
        (
            rate("advdmd_rollout_leases_issued_total", "leased"),
            rate("advdmd_rollout_groups_total", "generated"),
            rate("advdmd_reward_groups_total", "scored"),
            rate("advdmd_buffer_commits_total", "committed"),
        ),
    ),
    Panel(
        Row.FLOW,
        "Leases outstanding",
        Unit.NUMBER,
        "Groups that are being made or scored. Healthy: steady.",
        (value("advdmd_rollout_leases_outstanding"),),
    ),
    Panel(
        Row.FLOW,
        "Time to generate a group",
        Unit.SECONDS,
        "At an actor, and from there to the object store. Healthy: the hand-over is a small part.",
        (*quantiles("advdmd_rollout_seconds"), *quantiles("advdmd_rollout_hand_over_seconds", "hand-over")),
    ),
    Panel(
        Row.FLOW,
        "Time to score a group",
        Unit.SECONDS,
        "At a reward worker. Healthy: steady, and shorter than it takes to generate one.",
        quantiles("advdmd_reward_seconds"),
    ),
    Panel(
        Row.FLOW,
        "Cycle time",
        Unit.SECONDS,
        "Of one learner cycle, without the wait for groups. Healthy: steady within a phase.",
        quantiles("advdmd_learner_cycle_seconds"),
    ),
    Panel(
        Row.FLOW,
        "Parts of a learner cycle",
        Unit.SHARE,
        "Share of rank 0's time. Healthy: fake score, discriminator, RL and DMD have most of it.",
        (rate("advdmd_learner_part_seconds_total"),),
    ),
    Panel(
        Row.FLOW,
        "Buffer",
        Unit.BYTES,
        "Held, and the bytes above which rollouts are paced (buffer.max_bytes). Healthy: well below.",
        (value("advdmd_buffer_bytes", "held"), value("advdmd_buffer_capacity_bytes", "most")),
    ),
    Panel(
        Row.FLOW,
        "Groups held",
        Unit.NUMBER,
        "Groups in the buffer. Healthy: neither 0 for long nor growing.",
        (value("advdmd_buffer_groups"),),
    ),
    Panel(
        Row.FLOW,
        "Age at take",
        Unit.NUMBER,
        "Versions between making or scoring a group and learning from it. Healthy: at most rollout.max_policy_age.",
        (
            value("advdmd_buffer_policy_age_last", "policy, largest"),
            mean("advdmd_buffer_policy_age", "policy, mean"),
            value("advdmd_buffer_reward_age_last", "reward, largest"),
            mean("advdmd_buffer_reward_age", "reward, mean"),
        ),
    ),
    Panel(
        Row.FLOW,
        "Policy age, share of groups",
        Unit.SHARE,
        "Groups that were at most so many versions old. Healthy: nearly all at most 1.",
        (at_most("advdmd_buffer_policy_age"),),
    ),
)
WEIGHTS = (
    Panel(
        Row.WEIGHTS,
        "Version per worker",
        Unit.NUMBER,
        "Newest published version and what each worker last loaded. Healthy: workers follow within a version or two.",
        (
            value("advdmd_weights_published_version", "published"),
            value("advdmd_weights_worker_version"),
        ),
        width=12,
    ),
    Panel(
        Row.WEIGHTS,
        "Snapshots published, loaded and verified",
        Unit.PER_SECOND,
        "Healthy: every load is verified.",
        (
            rate("advdmd_weights_published_total", "published"),
            rate("advdmd_weights_loaded_total", "loaded"),
            rate("advdmd_weights_verified_total", "verified"),
        ),
        width=6,
    ),
    Panel(
        Row.WEIGHTS,
        "Snapshot size",
        Unit.BYTES,
        "Of the newest snapshot. Healthy: constant.",
        (value("advdmd_weights_snapshot_bytes"),),
        width=6,
    ),
)
