"""Every figure of the model card, each measured from the shipped files alone and each with the least it must reach.

A section is a function from the shipped assets to figures; `SECTIONS` holds them in the order of the card. A bound is
set well above chance and below what a sound build gives, so that a build that went wrong cannot pass unnoticed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from codec.log_mel import SAMPLE_RATE_HZ, log_mel
from codec.port import Codec
from evaluation.evaluate import clip_seed, decode, frames_of
from evaluation.judges import load_judges
from evaluation.probes import AttributeJudge
from evaluation.test_set import TestSet, load_test_set
from policy.port import SamplingSettings
from policy.samplers import sampler_of
from policy.tiny_musiclm import TinyMusicLM
from rewards.port import ClipBatch, RewardModel
from rewards.quality import Quality
from rewards.text_adherence import TextAdherence
from world.attributes import ATTRIBUTES, other_value
from world.captions import prompt
from world.degradations import SEEN_KINDS, UNSEEN_KINDS, degrade, wrong_tokens

SEED = 2024
BASE_PROMPTS, BASE_SECONDS = 96, 4.0
DAMAGES = 3  # of each clip and kind


@dataclass(frozen=True)
class Figure:
    """One number of the card. `least` and `most` are the bounds outside which the build is refused."""

    name: str
    value: float
    meaning: str
    least: float | None = None
    most: float | None = None

    @property
    def passes(self) -> bool:
        above = self.least is None or self.value >= self.least
        below = self.most is None or self.value <= self.most
        return math.isfinite(self.value) and above and below


class Assets:
    """The shipped files, loaded where a section asks for them."""

    def __init__(self, directory: str | Path) -> None:
        self.folder = Path(directory)

    @functools.cached_property
    def test(self) -> TestSet:
        return load_test_set(self.folder / "test_clips")

    @functools.cached_property
    def codec(self) -> Codec:
        from codec.checkpoint import load_codec

        return load_codec(self.folder / "codec")

    @functools.cached_property
    def policy(self) -> TinyMusicLM:
        from policy.checkpoint import load_policy

        return load_policy(self.folder / "policy")

    @functools.cached_property
    def text(self) -> TextAdherence:
        return TextAdherence.load(self.folder / "text_adherence")

    @functools.cached_property
    def quality(self) -> Quality:
        return Quality.load(self.folder / "quality")

    @functools.cached_property
    def judges(self) -> dict[str, RewardModel]:
        return {judge.name: judge for judge in load_judges(self.folder / "judges")}

    @functools.cached_property
    def prompts(self) -> list[str]:
        from configs.prompts import load_prompts

        found = sorted((self.folder / "prompts").glob("eval.*"))
        return load_prompts(str(found[0]) if found else str(self.folder / "prompts/eval.txt"))[:BASE_PROMPTS]

    @functools.cached_property
    def heard(self) -> ClipBatch:
        """The original sound of the clips that are shipped with it."""
        return clip_batch(self.test.captions[: len(self.test.pcm)], log_mel(self.test.pcm))

    @functools.cached_property
    def decoded(self) -> ClipBatch:
        """All test clips as the codec's decoder draws them from their tokens."""
        return clip_batch(self.test.captions, self.draw(self.test.codes[:, 1:]))

    def draw(self, codes: Tensor) -> Tensor:
        """codes [N, K, T] -> [N, 64, F], in batches, without phase."""
        with torch.inference_mode():
            return torch.cat([self.codec.decode_log_mel(part) for part in codes.split(64)])

    def play(self, codes: Tensor) -> Tensor:
        """codes [N, K, T] -> [N, 64, F] of the decoded waveform."""
        with torch.inference_mode():
            return torch.cat([log_mel(self.codec.decode(part).clamp(-1, 1)[:, 0]) for part in codes.split(32)])


def codec_figures(assets: Assets) -> list[Figure]:
    """Codebook use, reconstruction, and what the attribute judge still reads from it."""
    acoustic = assets.test.codes[:, 1:]
    figures = [Figure("semantic perplexity", perplexity(assets.test.codes[:, 0]), "of the semantic tokens", least=40)]
    for level, size in enumerate(assets.codec.codebook_sizes):
        used = len(acoustic[:, level].unique()) / size
        figures += [
            Figure(
                f"level {level + 1} perplexity", perplexity(acoustic[:, level]), f"of {size} entries", least=size / 4
            ),
            Figure(f"level {level + 1} use", used, "share of entries that occur in the test clips", least=0.7),
        ]
    original, codes = log_mel(assets.test.pcm), acoustic[: len(assets.test.pcm)]
    for levels in range(1, codes.shape[1] + 1):
        distance = float((assets.draw(codes[:, :levels]) - original).abs().mean())
        bound = 0.6 if levels == codes.shape[1] else None
        figures.append(Figure(f"mel L1, {levels} levels", distance, "nats, 64 bands, decoder's magnitudes", most=bound))
    played = assets.play(codes)
    figures.append(Figure("mel L1, waveform", float((played - original).abs().mean()), "nats, phase rebuilt", most=0.8))
    return figures + _probe_figures(assets, played)


def _probe_figures(assets: Assets, played: Tensor) -> list[Figure]:
    judge = assets.judges["attributes"]
    assert isinstance(judge, AttributeJudge)
    heard = (
        ("original", np.asarray(assets.heard.log_mel)),
        ("waveform", played.numpy()),
        ("decoded", np.asarray(assets.decoded.log_mel)),
    )
    read = {where: judge.probabilities(mel) for where, mel in heard}
    figures = []
    for name, values in ATTRIBUTES.items():
        truth = np.array([values.index(row[name]) for row in assets.test.attributes])
        chance = 1 / len(values)
        for where, probabilities in read.items():
            right = probabilities[name].argmax(1) == truth[: len(probabilities[name])]
            meaning = f"attribute judge's accuracy on {len(right)} clips, chance {chance:.2f}"
            figures.append(Figure(f"{name}, {where}", float(right.mean()), meaning, least=chance + 0.5 * (1 - chance)))
    return figures


def text_adherence_figures(assets: Assets) -> list[Figure]:
    """Cosines with the right and with other captions, and retrieval among all test clips."""
    figures = []
    for where, clips, least in (("original", assets.heard, 0.4), ("decoded", assets.decoded, 0.4)):
        matched, shuffled = assets.text.score(clips), assets.text.score(shuffle(clips))
        gap = float(matched.mean() - shuffled.mean())
        figures += [
            Figure(f"matched cosine, {where}", float(matched.mean()), f"{len(clips)} clips with their captions"),
            Figure(f"shuffled cosine, {where}", float(shuffled.mean()), "with another clip's", most=0.3),
            Figure(f"gap, {where}", gap, "matched minus shuffled", least=least),
        ]
    audio, text = assets.text.embed(assets.decoded), assets.text.embed_prompts(assets.decoded.prompts)
    similarity = text @ audio.T
    rank = (similarity > np.diag(similarity)[:, None]).sum(1)
    n = len(rank)
    for k, least in ((1, 0.1), (10, 0.5)):
        found = float((rank < k).mean())
        figures.append(Figure(f"R@{k}", found, f"caption finds its clip among {n}, chance {k / n:.3f}", least))
    return figures + [told_apart(assets, name) for name in ATTRIBUTES]


def told_apart(assets: Assets, name: str) -> Figure:
    """How often a decoded clip fits its prompt better than the same words with another value of one attribute."""
    clips, rng = assets.decoded, np.random.default_rng(SEED)
    right, wrong = [], []
    for row, truth in enumerate(assets.test.attributes):
        changed = truth | {name: other_value(name, truth[name], rng)}
        right.append(prompt(truth, np.random.default_rng(row)))
        wrong.append(prompt(changed, np.random.default_rng(row)))
    audio = assets.text.embed(clips)
    gap = ((assets.text.embed_prompts(right) - assets.text.embed_prompts(wrong)) * audio).sum(1)
    said = np.array([a != b for a, b in zip(right, wrong, strict=True)])
    meaning = f"share of {said.sum()} clips that prefer the true value to another, same words; chance .5"
    return Figure(f"told apart: {name}", float((gap[said] > 0).mean()), meaning, least=0.7)


def quality_figures(assets: Assets) -> list[Figure]:
    """Rank correlation with the severity of damage, of kinds that training never held and of those it did."""
    rng = np.random.default_rng(SEED)
    clean = assets.quality.score(assets.heard)
    figures = [
        Figure("clean, original", float(clean.mean()), "MOS", least=4.0),
        Figure("clean, decoded", float(assets.quality.score(assets.decoded).mean()), "MOS", least=4.0),
        Figure("silence", float(assets.quality.score(_silence()).mean()), "MOS", most=2.5),
    ]
    for where, kinds, least in (("unseen", UNSEEN_KINDS, 0.5), ("seen", SEEN_KINDS, 0.7)):
        scores, severities = zip(*[_damaged(assets, kind, rng) for kind in kinds], strict=True)
        for kind, score, severity in zip(kinds, scores, severities, strict=True):
            bound = 0.2 if where == "unseen" else None
            figures.append(Figure(f"{kind}, {where}", spearmanr(-severity, score).statistic, "Spearman", least=bound))
        pooled = spearmanr(-np.concatenate(severities), np.concatenate(scores)).statistic
        figures.append(Figure(f"all {where} kinds", pooled, "Spearman of score and severity, pooled", least=least))
    return figures


def agreement_figures(assets: Assets) -> list[Figure]:
    """A run scores the decoder's magnitudes, an evaluation the waveform: do they say the same?"""
    rng = np.random.default_rng(SEED + 1)
    count = min(128, len(assets.test))
    severity = torch.from_numpy(rng.random(count)) * torch.from_numpy(rng.random(count) < 0.6)
    codes = wrong_tokens(assets.test.codes[:count, 1:], rng, severity, min(assets.codec.codebook_sizes))
    prompts = [assets.test.captions[row if row % 2 else (row + 7) % count] for row in range(count)]
    drawn, played = clip_batch(prompts, assets.draw(codes)), clip_batch(prompts, assets.play(codes))
    figures = []
    models: list[RewardModel] = [assets.text, assets.quality]
    for model in models:
        run, evaluation = model.score(drawn), model.score(played)
        bias = float((evaluation - run).mean() / run.std())
        figures += [
            Figure(f"{model.name}, correlation", float(pearsonr(run, evaluation).statistic), "run and evaluation", 0.9),
            Figure(f"{model.name}, bias", bias, "evaluation minus run, in between-clip sd", least=-0.5, most=0.5),
        ]
    return figures


def judge_figures(assets: Assets) -> list[Figure]:
    """Can each held-out judge tell the right caption from another, and sound clips from damaged ones?"""
    damaged, _, _ = degrade(
        assets.test.pcm, np.random.default_rng(SEED + 2), severity=torch.full((len(assets.test.pcm),), 0.7)
    )
    figures = []
    for name, judge in assets.judges.items():
        own, other = judge.score(assets.heard), judge.score(shuffle(assets.heard))
        worse = judge.score(clip_batch(assets.heard.prompts, log_mel(damaged)))
        spread = float(np.nanstd(own))
        figures += [
            Figure(f"{name}, own caption", float(np.nanmean(own)), "raw score on original sound"),
            Figure(f"{name}, other caption", float(np.nanmean(other)), "raw score with another clip's caption"),
            Figure(f"{name}, damaged", float(np.nanmean(worse)), "raw score, severity 0.7, own caption"),
            Figure(
                f"{name}, separation",
                float((np.nanmean(own) - min(np.nanmean(other), np.nanmean(worse))) / spread),
                "from the worse of the two, in sd of its scores",
                least=0.5,
            ),
        ]
    return figures


def policy_figures(assets: Assets) -> list[Figure]:
    """Likelihood of the test clips under the base policy, against tables of counts and with other captions."""
    from policy.ngram import load_ngram

    codes, captions = assets.test.codes, list(assets.test.captions)
    tables = load_ngram(assets.folder / "ngram").bits_per_token(codes)
    true = bits_per_token(assets.policy, codes, captions)
    other = bits_per_token(assets.policy, codes, captions[7:] + captions[:7])
    return [
        *(Figure(f"{name} table", bits, "bits a token, test clips") for name, bits in tables.items()),
        Figure("base policy", true, "bits a token, true captions", most=min(tables.values()) - 0.3),
        Figure("base policy, other captions", other, "bits a token, another clip's caption"),
        Figure("worth of the caption", other - true, "bits a token, the past of the clip known", least=0.03),
    ]


def base_figures(assets: Assets) -> list[Figure]:
    """What the base plays for held-out prompts, heard by rewards and judges, with the prompt and with another."""
    clips = base_clips(assets)
    figures = []
    models: list[RewardModel] = [assets.text, assets.quality, *assets.judges.values()]
    for model in models:
        own, other = model.score(clips), model.score(shuffle(clips))
        gap = float(np.nanmean(own) - np.nanmean(other))
        figures.append(Figure(f"{model.name}, own prompt", float(np.nanmean(own)), f"{len(clips)} clips of the base"))
        if model is not assets.quality:
            bound = {"second_text_audio": 0.1, "attributes": 0.05}.get(model.name)
            figures.append(Figure(f"{model.name}, gap", gap, "own minus another prompt", least=bound))
    return figures


def base_clips(assets: Assets) -> ClipBatch:
    """Clips of the base policy for the first evaluation prompts, as an evaluation hears them."""
    sampler, codes = sampler_of(assets.policy), []
    with torch.inference_mode():
        for start in range(0, len(assets.prompts), 32):
            prompts = assets.prompts[start : start + 32]
            seeds = [clip_seed(SEED, start + row) for row in range(len(prompts))]
            text = assets.policy.encode_text(prompts)
            codes.append(sampler.sample(text, seeds, frames_of(BASE_SECONDS, assets.policy), SamplingSettings())[0])
        pcm = torch.cat([decode(assets.policy, assets.codec, part) for part in codes])
    return clip_batch(assets.prompts, log_mel(pcm[:, 0]))


def clip_batch(prompts: tuple[str, ...] | list[str], mel: Tensor) -> ClipBatch:
    return ClipBatch(tuple(prompts), SAMPLE_RATE_HZ, log_mel=mel.numpy())


def shuffle(clips: ClipBatch) -> ClipBatch:
    """Every clip with the caption of the one seven places on."""
    return ClipBatch(clips.prompts[7:] + clips.prompts[:7], clips.sample_rate_hz, log_mel=clips.log_mel)


def perplexity(tokens: Tensor) -> float:
    """exp of the entropy of how often each entry occurs."""
    share = torch.bincount(tokens.flatten()).double()
    share = share[share > 0] / share.sum()
    return float((-(share * share.log()).sum()).exp())


def bits_per_token(policy: TinyMusicLM, codes: Tensor, captions: list[str], batch: int = 64) -> float:
    """Mean over all cells of -log2 of the policy's probability, teacher-forced, untempered."""
    from policy.log_probs import gather, log_distribution

    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(codes), batch):
            part = codes[start : start + batch]
            text = policy.encode_text(captions[start : start + batch])
            total += float(-gather(log_distribution(policy, part, text, SamplingSettings(1.0)), part).double().sum())
    return total / codes.numel() / math.log(2)


def _damaged(assets: Assets, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """-> scores and severities of every clip that is shipped with sound, damaged DAMAGES times."""
    pcm, _, severity = degrade(assets.test.pcm.repeat(DAMAGES, 1), rng, kinds=(kind,))
    return assets.quality.score(clip_batch(assets.heard.prompts * DAMAGES, log_mel(pcm))), severity.numpy()


def _silence() -> ClipBatch:
    return clip_batch(("",), log_mel(torch.zeros(1, 4 * SAMPLE_RATE_HZ)))


SECTIONS: dict[str, Callable[[Assets], list[Figure]]] = {
    "codec": codec_figures,
    "text_adherence": text_adherence_figures,
    "quality": quality_figures,
    "agreement": agreement_figures,
    "judges": judge_figures,
    "policy": policy_figures,
    "base": base_figures,
}
