"""Small models with random weights, for tests that need no trained ones."""

import torch

from rewards.quality import QualityConfig, QualityNet, save_quality
from rewards.text_adherence import TwoTowers, TwoTowersConfig, save_text_adherence
from rewards.towers import AudioTowerConfig

AUDIO = AudioTowerConfig((8, 12), (2, 2), 3, 0.0)


def make_text_adherence(directory, seed=0):
    torch.manual_seed(seed)
    config = TwoTowersConfig(("banjo", "drums", "fast", "no", "slow"), 4, 8, 16, 8, AUDIO)
    towers = TwoTowers(config)
    save_text_adherence(directory, towers, config)
    return towers


def make_quality(directory, seed=0):
    torch.manual_seed(seed)
    config = QualityConfig(8, AUDIO)
    net = QualityNet(config)
    save_quality(directory, net, config)
    return net
