"""Every setting of a run, typed, with its default and its meaning. Presets are YAML files over these defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunConfig:
    dir: str = ""  # run folder; empty: runs/<preset>-<date>-<time>
    seed: int = 0
    resume: str = ""  # run folder to go on with, from its newest complete checkpoint
    checkpoint_every: int = 50  # learner steps; the last step is always saved
    keep_checkpoints: int = 3  # newest ones kept; step 0 and the last are always kept


@dataclass
class LearnerConfig:
    steps: int = 300
    batch_size: int = 64  # sequences per update
    micro_batch_size: int = 32  # sequences per forward/backward pass; does not change the result
    learning_rate: float = 6e-5
    lr_schedule: str = "linear"  # constant | linear (to zero at the last step)
    warmup_steps: int = 5
    alpha: float = 0.05  # KL strength of the objective, in [0, 1]
    baseline: str = "value"  # value (V_phi, the paper's) | leave_one_out (needs sampling.group_size >= 2) | batch_mean
    value_learning_rate: float = 3e-4
    value_warmup_steps: int = 0  # steps in which only V_phi learns
    importance_clip: float = 2.0  # c of w_t = min(pi / mu, c)
    grad_clip: float = 1.0  # global norm
    freeze: list[str] = field(default_factory=lambda: ["*embed*"])  # parameter-name patterns left as they are
    cpus: int = 1  # torch threads of the learner


@dataclass
class PipelineConfig:
    mode: str = "sync"  # sync: on-policy, reproducible | async: generators run on while the learner steps
    max_staleness: int = 2  # versions; async only
    stall_s: float = 300.0  # no progress for so long: the run ends and names the stage


@dataclass
class ActorsConfig:
    generators: int = 1
    scorers: int = 1
    generator_cpus: int = 1  # torch threads of each
    scorer_cpus: int = 1
    rollout_size: int = 32  # sequences per generator task; divides learner.batch_size
    max_restarts: int = 10  # of each role over the whole run
    deadline_s: float = 120.0  # of one call to a generator, the replay store or the evaluator


@dataclass
class PolicyConfig:
    checkpoint: str = "assets/tiny/policy"
    reference: str = ""  # KL anchor; empty: policy.checkpoint


@dataclass
class CodecConfig:
    checkpoint: str = "assets/tiny/codec"


@dataclass
class RewardConfig:
    weight: float = 1.0
    checkpoint: str = ""
    target: str = ""  # "module:Class" of your own reward; empty: the built-in one of this NAME
    shift: float | None = None  # overrides the checkpoint's own normalisation
    scale: float | None = None
    deadline_s: float = 30.0  # for one scoring call
    options: dict[str, Any] = field(default_factory=dict)  # handed to Class(**options)


@dataclass
class SamplingConfig:
    temperature: float = 0.99  # paper, section 4.2
    guidance_scale: float = 1.0
    seconds: float = 2.0  # clip length while training
    group_size: int = 1  # samples per prompt in a batch
    top_k: int = 0  # 0: off, the only value that training allows


@dataclass
class PromptsConfig:
    train: str = "assets/tiny/prompts/train.txt"
    eval: str = "assets/tiny/prompts/eval.txt"
    column: str = ""  # of CSV, JSONL, Parquet; empty: prompt, caption or text
    max_chars: int = 2000


@dataclass
class EvaluationConfig:
    every: int = 0  # learner steps; 0: only before the first and after the last step
    prompts: int = 64
    seconds: float = 4.0
    batch_size: int = 32
    seed: int = 12345
    samples: int = 8  # clips written as WAV, and heard in the report
    judges: str = "assets/tiny/judges"  # directory of held-out judges; empty: none


@dataclass
class ReplayConfig:
    times_sampled: int = 1  # each row is trained once
    max_bytes: int = 2_000_000_000
    segment_rows: int = 512


@dataclass
class MetricsConfig:
    port: int = 0  # Prometheus exporter; 0: off
    progress: str = "auto"  # auto | panel | lines | off


@dataclass
class Config:
    preset: str = "tiny_r"
    run: RunConfig = field(default_factory=RunConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    rewards: dict[str, RewardConfig] = field(default_factory=dict)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
