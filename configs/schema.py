"""Every setting of a run, typed, with its default and its meaning. Presets are YAML files over these defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from configs.setting import setting


@dataclass
class RunConfig:
    dir: str = setting("", "run folder, or s3://BUCKET/PREFIX; empty: runs/PRESET-DATE-TIME", path="output")
    seed: int = setting(0, "of prompts, sampling and training", at_least=0, at_most=2**32 - 1)
    resume: str = setting("", "run folder to go on with, from its newest complete checkpoint")
    checkpoint_every: int = setting(50, "learner steps; the last step is always saved", at_least=1)
    keep_checkpoints: int = setting(3, "newest ones kept; step 0 and the last are always kept", at_least=1)


@dataclass
class LearnerConfig:
    steps: int = setting(300, "updates of the policy", at_least=1)
    batch_size: int = setting(64, "sequences per update", at_least=1)
    micro_batch_size: int = setting(
        32, "sequences per forward and backward pass of a worker; does not change the result", at_least=1
    )
    learning_rate: float = setting(6e-5, "of the policy", at_least=0, at_most=1)
    lr_schedule: str = setting("linear", "linear: to zero at the last step", choices=("constant", "linear"))
    warmup_steps: int = setting(5, "steps over which the learning rate rises from zero", at_least=0)
    alpha: float = setting(0.05, "KL strength of the objective", at_least=0, at_most=1)
    baseline: str = setting(
        "value",
        "value: V_phi, the paper's; leave_one_out needs sampling.group_size of at least 2",
        choices=("value", "leave_one_out", "batch_mean"),
    )
    value_trunk: str = setting(
        "own",
        "own: V_phi has all weights of its own, as the paper's; policy: it is a head on the policy's states",
        choices=("own", "policy"),
    )
    value_gradient: float = setting(
        0.0, "with value_trunk=policy: share of the value loss's gradient that reaches the policy's trunk", at_least=0
    )
    value_learning_rate: float = setting(3e-4, "of the value network", at_least=0, at_most=1)
    value_warmup_steps: int = setting(0, "steps in which only the value network learns", at_least=0)
    importance_clip: float = setting(2.0, "c of w_t = min(pi / mu, c)", above=0)
    grad_clip: float = setting(1.0, "global norm of the gradient", above=0)
    freeze: list[str] = setting(["*embed*"], "parameter-name patterns left as they are")  # noqa: RUF009
    lora_rank: int = setting(0, "of adapters that learn while all weights stay; 0: the weights learn", at_least=0)
    lora_alpha: float = setting(16.0, "adapters count alpha / rank times", above=0)
    cpus: int = setting(1, "torch threads of the learner, of each worker", at_least=1)
    workers: int = setting(1, "processes that share each update; divides learner.batch_size", at_least=1)
    parallel: str = setting(
        "data",
        "of several workers. data: each holds the networks; sharded: each a part of every weight (FSDP2)",
        choices=("data", "sharded"),
    )
    gpus: int = setting(0, "of each worker; 0: CPUs and gloo, 1: NCCL", at_least=0, at_most=1)
    precision: str = setting(
        "float32",
        "of forward and backward passes; the weights that Adam updates always have 32 bits",
        choices=("float32", "bfloat16"),
    )
    optimizer_states: str = setting(
        "float32",
        "Adam's two moments. 8bit: a quarter of the bytes; of a MusicGen whose weights learn, needs "
        "pip install 'musicrl-on-ray[states]'",
        choices=("float32", "8bit"),
    )
    activation_checkpointing: bool = setting(
        False, "true: the backward pass works a block's activations out again; less memory, more time"
    )
    collective_timeout_s: float = setting(60.0, "a worker's longest wait for the others", above=0)


@dataclass
class PipelineConfig:
    mode: str = setting(
        "sync",
        "sync: on-policy, reproducible; async: generators run on while the learner steps",
        choices=("sync", "async"),
    )
    max_staleness: int = setting(
        2, "versions that a trained row may lie behind the learner; async only, there at least 1", at_least=0
    )
    stall_warn_s: float = setting(
        120.0, "no progress for so long: the stage, its actors and their stacks are told and counted", above=0
    )
    stall_s: float = setting(300.0, "no progress for so long: the run ends and names the stage", above=0)


@dataclass
class WeightsConfig:
    backend: str = setting(
        "object_store",
        "how new weights reach the generators: Ray's object store, or broadcasts (NCCL between GPUs, else gloo)",
        choices=("object_store", "collective"),
    )
    changed_only: bool = setting(
        False,
        "after the first time, publish only what training changes: the tensors that learner.freeze leaves, or, with "
        "learner.lora_rank and object_store, the adapters, which readers merge",
    )
    deadline_s: float = setting(30.0, "of one broadcast; members that miss it are left out and join again", above=0)


@dataclass
class ActorsConfig:
    generators: int = setting(1, "actors that sample and decode; at the start, where generators_max is set", at_least=1)
    generators_min: int = setting(0, "fewest while there is work, where generators_max is set", at_least=0)
    generators_max: int = setting(
        0, "most, as the time ledger asks for them; 0: always actors.generators", at_least=0, at_most=10_000
    )
    scorers: int = setting(1, "actors that score; at the start, where scorers_max is set", at_least=1)
    scorers_min: int = setting(0, "fewest while there is work, where scorers_max is set", at_least=0)
    scorers_max: int = setting(
        0, "most, as the time ledger asks for them; 0: always actors.scorers", at_least=0, at_most=10_000
    )
    resize_rest_s: float = setting(60.0, "between two changes of how many actors a role has", at_least=0)
    nodes_deadline_s: float = setting(
        600.0, "that an actor of a role that grows may wait for a node; then the run goes on without it", above=0
    )
    generator_cpus: int = setting(1, "torch threads of each generator", at_least=1)
    generator_precision: str = setting(
        "float32",
        "of the generators' passes; bfloat16, for a MusicGen: faster, rounded, corrected by importance weights",
        choices=("float32", "bfloat16"),
    )
    scorer_cpus: int = setting(1, "torch threads of each scorer", at_least=1)
    rollout_size: int = setting(
        32,
        "sequences per generator task; divides learner.batch_size (left out: the largest fitting divisor up to 32)",
        at_least=1,
    )
    max_restarts: int = setting(10, "of each role over the whole run", at_least=0)
    deadline_s: float = setting(120.0, "of one call to a generator, the replay store or the evaluator", above=0)


@dataclass
class PolicyConfig:
    checkpoint: str = setting("assets/tiny/policy", "directory of the policy to start from", path="asset")
    reference: str = setting("", "directory of the KL anchor; empty: policy.checkpoint", path="asset")


@dataclass
class CodecConfig:
    checkpoint: str = setting("assets/tiny/codec", "directory of the audio codec", path="asset")


@dataclass
class RewardConfig:
    weight: float = setting(1.0, "share in the mixed reward; 0: scored and recorded only")
    checkpoint: str = setting("", "directory of the reward model", path="asset")
    target: str = setting("", '"module:Class" of your own reward; empty: the built-in one of this NAME')
    model: str = setting(
        "",
        "a reward model of the field (docs/rewards-of-the-field.md); empty: the one of this NAME, if there is one",
        choices=("", "clap", "laion_clap", "muq_mulan", "audiobox"),
    )
    environment: str = setting(
        "", "folder of a virtual environment that such a model runs in; empty: that of the scorers", path="asset"
    )
    shift: float | None = setting(None, "overrides the checkpoint's own normalisation")
    scale: float | None = setting(None, "overrides the checkpoint's own normalisation", above=0)
    deadline_s: float = setting(30.0, "for one scoring call", above=0)
    options: dict[str, Any] = setting({}, "handed to Class(**options)")  # noqa: RUF009


@dataclass
class SamplingConfig:
    temperature: float = setting(0.99, "of the sampled distribution (0.99: paper, section 4.2)", above=0, at_most=10)
    guidance_scale: float = setting(1.0, "classifier-free guidance; 1: off", at_least=0, at_most=20)
    seconds: float = setting(2.0, "clip length while training", above=0, at_most=120)
    group_size: int = setting(1, "samples per prompt in a batch; divides actors.rollout_size", at_least=1)
    top_k: int = setting(0, "0: off, the only value that training allows", at_least=0)


@dataclass
class PromptsConfig:
    train: str = setting("assets/tiny/prompts/train.txt", "text (one a line), CSV, JSONL or Parquet", path="asset")
    eval: str = setting("assets/tiny/prompts/eval.txt", "held-out prompts, same formats", path="asset")
    column: str = setting("", "of CSV, JSONL, Parquet; empty: prompt, caption or text")
    max_chars: int = setting(2000, "longest prompt taken", at_least=1, at_most=100_000)


@dataclass
class EvaluationConfig:
    every: int = setting(0, "learner steps; 0: only before the first and after the last step", at_least=0)
    prompts: int = setting(64, "of prompts.eval, from its start", at_least=1)
    seconds: float = setting(4.0, "clip length", above=0, at_most=120)
    batch_size: int = setting(32, "clips sampled together", at_least=1)
    seed: int = setting(12345, "the same at every checkpoint", at_least=0, at_most=2**32 - 1)
    samples: int = setting(8, "clips written as WAV, and heard in the report", at_least=0)
    judges: str = setting("assets/tiny/judges", "directory of held-out judges; empty: none", path="asset")


@dataclass
class AlarmRules:
    """The numbers of evaluation/over_optimisation.py, which says what each rule is."""

    falls_se: float = setting(2.5, "standard errors that a guard must lie below its best", at_least=0)
    falls_sd: float = setting(0.1, "and sd of the base's clips: the second preference model", at_least=0)
    judges_sd: float = setting(0.3, "and sd of the base's clips: the held-out judges together", at_least=0)
    rises_se: float = setting(2.0, "standard errors by which the reward must rise over the window", at_least=0)
    follow: float = setting(0.25, "share of the reward's rise below which a guard no longer follows", at_least=0)
    window: int = setting(3, "evaluations over which both slopes are taken", at_least=2)
    consecutive: int = setting(2, "evaluations in a row at which a rule must hold", at_least=1)
    at_once_se: float = setting(3.5, "standard errors of a fall for which one evaluation is enough", at_least=0)
    diversity: float = setting(0.25, "share of the first evaluation's diversity; 0: no rule", at_least=0, at_most=1)
    kl_clip: float = setting(0.0, "nats a clip from the reference; 0: no rule", at_least=0)


@dataclass
class GuardConfig(AlarmRules):
    """What watches a run for over-optimisation, and what an alarm does."""

    stop_on_alarm: bool = setting(False, "true: an alarm ends the run in good order, with a checkpoint")
    second_preference: str = setting(
        "", "directory or registry:… of a preference model that learnt from other listeners; empty: none", path="asset"
    )
    diversity_prompts: int = setting(4, "of the evaluation prompts, sampled several times; 0: no diversity", at_least=0)
    diversity_samples: int = setting(4, "clips of each of these prompts", at_least=2, at_most=100)


@dataclass
class ReplayConfig:
    times_sampled: int = setting(1, "how often each row is trained", at_least=1)
    max_bytes: int = setting(2_000_000_000, "of stored rows on disk", at_least=1_000_000)
    segment_rows: int = setting(512, "rows of one Arrow file", at_least=1)


@dataclass
class StorageConfig:
    """Object storage, for what is given as s3://BUCKET/PREFIX."""

    endpoint: str = setting("", "of an S3-compatible server; empty: AWS_ENDPOINT_URL_S3, else Amazon's")
    cache: str = setting("", "folder for this machine's copies; empty: MUSICRL_CACHE, else ~/.cache/musicrl")
    upload_s: float = setting(10.0, "from upload to upload between checkpoints; those are waited for", above=0)
    deadline_s: float = setting(1800.0, "no write was taken for so long: the run ends, and can be resumed", above=0)
    lease_s: float = setting(30.0, "a run that was silent for so long has left its folder to who asks", at_least=3)


@dataclass
class MetricsConfig:
    port: int = setting(0, "of the Prometheus exporter; 0: off", at_least=0, at_most=65535)
    progress: str = setting(
        "auto", "auto: a panel on a terminal, else lines", choices=("auto", "panel", "lines", "off")
    )


@dataclass
class Config:
    preset: str = setting("tiny_r", "name of a preset, or path of a YAML file")
    run: RunConfig = field(default_factory=RunConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    rewards: dict[str, RewardConfig] = field(default_factory=dict)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
