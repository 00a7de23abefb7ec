"""The tiny world from nothing, stage by stage: what each makes, from what, and how one sees that it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.errors import RunFailed
from codec.checkpoint import load_codec
from codec.log_mel import SAMPLE_RATE_HZ
from codec.port import Codec
from codec.semantic import SemanticTokenizer, load_semantic
from evaluation.card_figures import SECTIONS
from evaluation.model_card import measure, write_card
from evaluation.test_set import export_test_set, stream_encoder
from evaluation.train_judges import train_judges
from learner.base_policy import fit_ngrams, measure_likelihood, train_base_policy
from learner.supervised import SupervisedSettings
from policy.checkpoint import load_policy
from policy.port import SamplingSettings
from policy.samplers import sampler_of
from rewards.normalisation import measure_normalisation
from rewards.port import ClipBatch
from rewards.train import train_quality, train_text_adherence
from world.build import build_corpus
from world.codec_run import train_world_codec
from world.corpus import Corpus
from world.prompts import prompts
from world.semantic_run import train_world_semantic
from world.tokens import encode_corpus, load_tokens, token_path

SHIPPED = ("codec", "semantic", "text_adherence", "quality", "judges", "policy", "ngram")
TRAIN_PROMPTS, EVAL_PROMPTS = 4000, 512
NORMALISATION_CLIPS, NORMALISATION_SECONDS = 512, 2.0
TEST_SOUNDS = 40  # of the test clips; the sound of each takes some 90 kB
MOST_BYTES = 20_000_000  # what may be shipped
# stage -> what it is made from; in the order of making
NEEDS: dict[str, tuple[str, ...]] = {
    "corpus": (),
    "codec": ("corpus",),
    "semantic": ("corpus",),
    "tokens": ("codec", "semantic"),
    "text_adherence": ("codec",),
    "quality": ("codec",),
    "judges": ("codec",),
    "policy": ("tokens",),
    "ngram": ("policy",),
    "normalisation": ("policy", "text_adherence", "quality"),
    "export": ("semantic", "judges", "ngram", "normalisation"),
    "card": ("export",),
}


@dataclass
class WorldSettings:
    """`python -m learner.pretrain world` key=value."""

    stage: str = ""  # one stage alone, made anew; empty: all that are not finished, in order
    world: str = "build/world"  # corpus and tokens
    models: str = "build/tiny"  # models in the making
    assets: str = "assets/tiny"  # what is shipped
    scale: float = 1.0  # of the corpus
    codec_minutes: float = 35.0  # wall-clock budget of the codec's training
    semantic_steps: int = 600
    reward_steps: int = 1200
    judge_steps: int = 900
    policy_steps: int = SupervisedSettings.steps
    policy_learning_rate: float = SupervisedSettings.learning_rate
    seed: int = 0
    threads: int = 2


class WorldBuilder:
    """Makes the stages of one world. Models are loaded when a stage first needs them."""

    def __init__(self, settings: WorldSettings, say: Callable[[str], None]) -> None:
        self.settings, self.say = settings, say
        self.world, self.models, self.assets = Path(settings.world), Path(settings.models), Path(settings.assets)

    @property
    def corpus(self) -> Corpus:
        return Corpus.open(self.world)

    @property
    def codec(self) -> Codec:
        return load_codec(self.models / "codec")

    @property
    def semantic(self) -> SemanticTokenizer:
        return load_semantic(self.models / "semantic")

    def make_corpus(self) -> None:
        build_corpus(self.world, self.settings.scale, self.settings.seed)

    def make_codec(self) -> None:
        train_world_codec(self.corpus, self.models / "codec", self.settings.codec_minutes, self.settings.seed, self.say)

    def make_semantic(self) -> None:
        steps, seed = self.settings.semantic_steps, self.settings.seed
        train_world_semantic(self.corpus, self.models / "semantic", steps, seed, self.say)

    def make_tokens(self) -> None:
        encode_corpus(self.corpus, self.codec, self.semantic, self.world, self.settings.seed, say=self.say)

    def make_text_adherence(self) -> None:
        out, steps, seed = self.models / "text_adherence", self.settings.reward_steps, self.settings.seed
        train_text_adherence(self.corpus, self.codec, out, steps, seed, progress=self.say)

    def make_quality(self) -> None:
        out, steps, seed = self.models / "quality", self.settings.reward_steps, self.settings.seed
        train_quality(self.corpus, self.codec, out, steps, seed, progress=self.say)

    def make_judges(self) -> None:
        out, steps, seed = self.models / "judges", self.settings.judge_steps, self.settings.seed
        train_judges(self.corpus, self.codec, out, steps, seed, progress=self.say)

    def make_policy(self) -> None:
        s = self.settings
        training = SupervisedSettings(steps=s.policy_steps, learning_rate=s.policy_learning_rate, seed=s.seed)
        train_base_policy(load_tokens(token_path(self.world, "mixed")), self.models / "policy", training, self.say)

    def make_ngram(self) -> None:
        mixed = load_tokens(token_path(self.world, "mixed"))
        tables = fit_ngrams(mixed, self.models / "ngram")
        clean = load_tokens(token_path(self.world, "clean"))
        for name, tokens in (("clean", clean), ("mixed", mixed)):
            for figure, bits in measure_likelihood(self.models / "policy", tables, tokens).items():
                self.say(f"likelihood, {name} test clips: {figure} {bits:.3f} bits/token")

    def make_normalisation(self) -> None:
        clips = self.base_clips()
        for name in ("text_adherence", "quality"):
            shift, scale = measure_normalisation(self.models / name, clips)
            self.say(f"{name}: the base policy's clips score {shift:.3f} with a spread of {scale:.3f}")

    def make_export(self) -> None:
        for name in SHIPPED:
            copy_model(self.models / name, self.assets / name)
        write_prompt_lists(self.assets / "prompts")
        encode = stream_encoder(self.codec, self.semantic.encode)
        export_test_set(self.corpus, encode, self.assets / "test_clips", flac=TEST_SOUNDS)
        total = sum(path.stat().st_size for path in self.assets.rglob("*") if path.is_file())
        self.say(f"export: {self.assets}, {total / 1e6:.1f} of at most {MOST_BYTES / 1e6:.0f} MB")
        if total > MOST_BYTES:
            raise RunFailed(f"export: {self.assets} takes {total / 1e6:.1f} MB, allowed {MOST_BYTES / 1e6:.0f} MB")

    def make_card(self) -> None:
        write_card(self.assets, measure(self.assets, list(SECTIONS)))

    def base_clips(self) -> list[ClipBatch]:
        """Clips of the base policy for training prompts, as a run's scorers see them."""
        policy, codec = load_policy(self.models / "policy"), self.codec
        sampler, texts = sampler_of(policy), [row["prompt"] for row in prompts("train", NORMALISATION_CLIPS)]
        acoustic = [k for k, stream in enumerate(policy.streams) if stream.kind == "acoustic"]
        frames, batches = round(NORMALISATION_SECONDS * policy.frame_rate_hz), []
        for start in range(0, len(texts), 64):
            part = texts[start : start + 64]
            seeds = range(start, start + len(part))
            codes, _ = sampler.sample(policy.encode_text(part), seeds, frames, SamplingSettings())
            with torch.inference_mode():
                log_mel = codec.decode_log_mel(codes[:, acoustic]).numpy()
            batches.append(ClipBatch(tuple(part), SAMPLE_RATE_HZ, log_mel=log_mel))
        return batches

    def finished(self, stage: str) -> bool:
        """Whether what the stage makes is there, and no older than what it is made from."""
        made = self.outputs(stage)
        if not all(path.exists() for path in made):
            return False
        sources = [path for need in NEEDS[stage] for path in self.outputs(need) if path.exists()]
        newest = max((path.stat().st_mtime for path in sources), default=0.0)
        return min(path.stat().st_mtime for path in made) >= newest

    def make(self, stage: str) -> None:
        """Makes one stage; what was made before is made anew, what was interrupted goes on."""
        if all(path.exists() for path in self.outputs(stage)):
            (self.models / stage / "training.pt").unlink(missing_ok=True)
        getattr(self, f"make_{stage}")()

    def outputs(self, stage: str) -> list[Path]:
        """What a stage writes last."""
        if stage == "corpus":
            return [self.world / name for name in ("clips.parquet", "pcm.npy", "notes.parquet")]
        if stage == "tokens":
            return [token_path(self.world, kind) for kind in ("clean", "mixed")]
        if stage == "judges":
            return [self.models / "judges" / name / "config.json" for name in ("attributes", "tempo", "spectrum")]
        if stage == "policy":
            return [self.models / "policy" / name for name in ("config.json", "training.json")]
        if stage == "ngram":
            return [self.models / "ngram" / "ngram.safetensors"]
        if stage == "normalisation":
            return [self.models / name / "config.json" for name in ("text_adherence", "quality")]
        if stage == "export":
            return [self.assets / "test_clips" / "clips.parquet", self.assets / "policy" / "config.json"]
        if stage == "card":
            return [self.assets / "MODEL_CARD.md"]
        return [self.models / stage / "model.safetensors"]


def copy_model(source: Path, target: Path) -> None:
    """Configs, weights, vocabularies and training facts; no training state."""
    if target.exists():
        shutil.rmtree(target)
    kept = [path for path in sorted(source.rglob("*")) if path.suffix in (".json", ".safetensors")]
    for path in kept:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def write_prompt_lists(folder: Path) -> None:
    """train.txt and eval.txt, one prompt a line; what eval asks for is asked for in no prompt of train."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", TRAIN_PROMPTS), ("eval", EVAL_PROMPTS)):
        lines = "".join(row["prompt"] + "\n" for row in prompts(part, count))
        (folder / f"{part}.txt").write_text(lines, encoding="utf-8")
