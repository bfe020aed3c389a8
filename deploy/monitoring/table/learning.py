"""Panels of what is learned."""

from advdmd_ray.config.objectives import DiscriminatorSection
from deploy.monitoring.panel import Look, Panel, Row, Unit
from deploy.monitoring.queries import formula, increase, rate, value

LEARNING = (
    Panel(
        Row.LEARNING,
        "Judge of the student",
        Unit.NUMBER,
        "Figures of the independent judge, every evaluation.judge_cycles. Healthy: the headline rises or stays.",
        (value("advdmd_run_judge"),),
    ),
    Panel(
        Row.LEARNING,
        "Scores of the validation prompts",
        Unit.NUMBER,
        "Mean score of their images, by scorer, every validation.cycles. Healthy: it rises or stays.",
        (value("advdmd_run_validation_score"),),
    ),
    Panel(
        Row.LEARNING,
        "Reward per level",
        Unit.NUMBER,
        "Mean logit of the discriminator; the highest level is the final image. A rise alone proves nothing.",
        (value("advdmd_reward_mean"),),
    ),
    Panel(
        Row.LEARNING,
        "Reward spread within groups",
        Unit.NUMBER,
        "Standard deviation of the reward within a group. Healthy: above 0, as no spread leaves nothing to learn from.",
        (value("advdmd_reward_spread"),),
    ),
    Panel(
        Row.LEARNING,
        "Reward of one's own",
        Unit.NUMBER,
        "The user's own reward (reward.extra), no part of AdvDMD. Healthy: it rises, and its spread stays above 0.",
        (value("advdmd_reward_extra_mean", "mean"), value("advdmd_reward_extra_spread", "spread within groups")),
    ),
    Panel(
        Row.LEARNING,
        "Held-out AUC per level",
        Unit.NUMBER,
        "How well the discriminator tells real from generated; 0.5 is chance. Above discriminator.auc_high a level "
        "gives no RL signal.",
        (value("advdmd_learner_discriminator_auc"),),
        bad_from=DiscriminatorSection().auc_high,
    ),
    Panel(
        Row.LEARNING,
        "Text agreement per level",
        Unit.SHARE,
        "States that score higher with their own text than with a wrong one. Healthy: above 0.5 by several errors.",
        (value("advdmd_learner_text_agreement"), value("advdmd_learner_text_agreement_error", "error")),
    ),
    Panel(
        Row.LEARNING,
        "Levels open to RL",
        Unit.NUMBER,
        "1 where RL may use the reward of the level. Healthy: most levels, once the discriminator reads the text.",
        (value("advdmd_learner_rl_gate_open"),),
    ),
    Panel(
        Row.LEARNING,
        "Turns without RL",
        Unit.NUMBER,
        "RL turns due while no level was open (gated), or no action had an effect (silent). Healthy: few, none.",
        (
            increase("advdmd_learner_gated_turns_total", "gated"),
            increase("advdmd_learner_silent_turns_total", "silent"),
        ),
    ),
    Panel(
        Row.LEARNING,
        "Agreement with the oracle",
        Unit.SHARE,
        "Pairs that discriminator and oracle order alike (reward.oracle_agreement). Healthy: above 0.5.",
        (value("advdmd_reward_agreement"),),
    ),
    Panel(
        Row.LEARNING,
        "Losses",
        Unit.NUMBER,
        "Mean over the last cycle. Healthy: they settle; that of a player in a game need not fall.",
        (formula('advdmd_learner_loss{objective!="rl"}', "", "objective"),),
    ),
    Panel(
        Row.LEARNING,
        "RL loss",
        Unit.NUMBER,
        "Mean over the last cycle. Healthy: small, of either sign, without a trend.",
        (formula('advdmd_learner_loss{objective="rl"}', "", "objective"),),
    ),
    Panel(
        Row.LEARNING,
        "Gradient norm",
        Unit.NUMBER,
        "Before the clip, largest of the cycle. Healthy: within a power of ten of its past.",
        (value("advdmd_learner_gradient_norm"),),
        Look.LOG_LINES,
    ),
    Panel(
        Row.LEARNING,
        "Share of each learning rate",
        Unit.SHARE,
        "What the last updates had of the rate in the settings. RL's begins in full at its first turn.",
        (value("advdmd_learner_rate_factor"),),
    ),
    Panel(
        Row.LEARNING,
        "Trust region",
        Unit.SHARE,
        "RL terms that the trust region dropped. Healthy: a small share; much of it asks for a lower "
        "policy_gradient.learning_rate.",
        (value("advdmd_learner_rl_masked_fraction", "masked"),),
    ),
    Panel(
        Row.LEARNING,
        "Divergence from the behaviour policy",
        Unit.NUMBER,
        "Of a whole latent, in nats. Healthy: bounded; growth asks for a lower policy_gradient.learning_rate.",
        (value("advdmd_learner_kl_nats", "nats"),),
    ),
    Panel(
        Row.LEARNING,
        "Advantage spread",
        Unit.NUMBER,
        "Standard deviation of the advantages before scaling. Healthy: above 0.",
        (value("advdmd_learner_advantage_spread"),),
    ),
    Panel(
        Row.LEARNING,
        "Direct GAN term beside DMD",
        Unit.NUMBER,
        "Norm of the GAN term by that of DMD, at most twice dmd.gan_weight. Near 0: a blind discriminator.",
        (value("advdmd_learner_gan_ratio", "GAN by DMD"),),
    ),
    Panel(
        Row.LEARNING,
        "Updates",
        Unit.PER_SECOND,
        "Optimizer updates of each objective. Healthy: in the ratio of the settings.",
        (rate("advdmd_learner_updates_total"),),
    ),
    Panel(
        Row.LEARNING,
        "Actions of an RL update",
        Unit.NUMBER,
        "Actions that one RL update learned from, and those left out as too far from the policy that acted. "
        "Healthy: none left out.",
        (
            value("advdmd_learner_rl_actions", "learned from"),
            increase("advdmd_learner_rl_terms_dropped_total", "left out"),
        ),
    ),
)
