"""Small models with random weights and a small corpus of tones, for tests that need no trained ones."""

import numpy as np
import pyarrow as pa
import torch

from codec.magnitude_codec import MagnitudeCodec, MagnitudeCodecConfig
from rewards.quality import QualityConfig, QualityNet, save_quality
from rewards.text_adherence import TwoTowers, TwoTowersConfig, save_text_adherence
from rewards.towers import AudioTowerConfig, WideTowerConfig
from world.attributes import ATTRIBUTES, draw_attributes
from world.captions import caption
from world.corpus import Corpus

AUDIO = AudioTowerConfig((8, 12), (2, 2), 3, 0.0)
WIDE = WideTowerConfig(8, 3, 2, 0.0)
PITCHES_HZ = {lead: 220.0 * 1.35**i for i, lead in enumerate(ATTRIBUTES["lead"])}
PULSES_HZ = {"slow": 2.0, "medium": 4.0, "fast": 8.0}


def make_text_adherence(directory, seed=0):
    torch.manual_seed(seed)
    config = TwoTowersConfig(("banjo", "drums", "fast", "no", "slow"), 4, 8, 16, 8, WIDE)
    towers = TwoTowers(config)
    save_text_adherence(directory, towers, config)
    return towers


def make_quality(directory, seed=0):
    torch.manual_seed(seed)
    config = QualityConfig(8, AUDIO)
    net = QualityNet(config)
    save_quality(directory, net, config)
    return net


def make_codec(seed=0):
    torch.manual_seed(seed)
    codec = MagnitudeCodec(MagnitudeCodecConfig(width=16, hidden=16, blocks=1, latent=4, levels=2, entries=8))
    codec.quantizer.codebooks.normal_(std=3.0)  # untrained ones are zero: all clips would sound alike
    return codec.eval()


def tone_corpus(folder, split, clips=96):
    """Tones whose pitch is the lead and whose pulse is the tempo: enough for two towers to find each other."""
    rng = np.random.default_rng(0)
    attributes = [draw_attributes(rng) for _ in range(clips)]
    t = np.arange(64_000) / 16_000
    pulse = [np.exp(-4 * ((t * PULSES_HZ[a["tempo"]]) % 1.0)) for a in attributes]
    tone = [np.sin(2 * np.pi * PITCHES_HZ[a["lead"]] * t) for a in attributes]
    captions = [caption(a, rng) for a in attributes]
    ids = [f"{split}_{i}" for i in range(clips)]
    columns = {name: [a[name] for a in attributes] for name in ATTRIBUTES}
    columns |= {"clip_id": ids, "tune_id": ids, "title": ids, "collection": ["tones"] * clips, "split": [split] * clips}
    columns |= {
        "notes_per_s": [PULSES_HZ[a["tempo"]] for a in attributes],
        "caption": captions,
        "caption_alt": captions,
    }
    return Corpus(folder, pa.table(columns), (0.4 * np.stack(tone) * np.stack(pulse) * 32767).astype(np.int16))
