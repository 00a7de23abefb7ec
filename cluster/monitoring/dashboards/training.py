"""Does the run learn what it should?"""

from __future__ import annotations

from cluster.monitoring.dashboards.board import OF_RUN, RUN, Dashboard, Panel, Query, Row, of_catalogue
from cluster.monitoring.series import series

AGAINST_KL = Panel(
    "Reward against KL",
    (
        Query(f"max by (run) ({series('kl_clip', OF_RUN)})", "KL, nats a clip"),
        Query(f"max by (run) ({series('reward', OF_RUN)})", "reward"),
    ),
    about="What the run pays for its reward. A curve that goes right without going up is drift. Choose one run.",
    kind="scatter",
)

TRAINING = Dashboard(
    "musicrl-training",
    "MusicRL / Training",
    "Reward and what it costs, held-out judges, and the alarm.",
    (RUN,),
    (
        Row(
            "Reward",
            (
                of_catalogue("Reward", "reward"),
                of_catalogue("Reward by name, raw", "reward_NAME"),
                AGAINST_KL,
                of_catalogue("Spread of the reward", "reward_std", least=0),
                of_catalogue("Advantage", "advantage_std", least=0),
                of_catalogue("Learning rate", "learning_rate", least=0),
            ),
        ),
        Row(
            "Guards",
            (
                of_catalogue("Held-out judges", "judge_NAME", needs="evaluation", width=12),
                of_catalogue("Alarm", "alarm", kind="number", width=6),
                of_catalogue("Alarms so far", "alarms", kind="number", width=6),
            ),
        ),
        Row(
            "Policy",
            (
                of_catalogue("KL of a clip", "kl_clip", least=0),
                of_catalogue("KL by stream", "kl_stream_NAME", least=0),
                of_catalogue("Entropy", "entropy", least=0),
                of_catalogue("Policy loss", "policy_loss"),
                of_catalogue("Gradients", "grad_norm", "value_grad_norm", least=0),
                of_catalogue("KL of a token", "kl", least=0),
            ),
        ),
        Row(
            "Baseline and importance weights",
            (
                of_catalogue("Value loss", "value_loss", least=0),
                of_catalogue("Explained variance", "explained_variance", most=1),
                of_catalogue("Importance weights", "importance_weight_mean", "importance_weight_max", least=0),
                of_catalogue("Clipped importance weights", "importance_clipped", least=0),
                of_catalogue("Sampler against learner", "sampler_mismatch", least=0),
            ),
        ),
    ),
)
