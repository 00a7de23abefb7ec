"""How often do two simulated listeners agree, and how well can their votes be predicted at best?

    python -m feedback.simulated_listeners [calibrate] [key=value ...]

    policy=assets/tiny/policy       policy whose pairs are measured: the agreement is defined on the base policy's
    codec=assets/tiny/codec         its codec
    prompts=assets/tiny/prompts/train.txt
    pairs=1000                      pairs sampled
    seconds=4                       length of the clips
    seed=0                          of pairs and panel
    threads=1                       of torch
    listeners=FILE                  parameters (default: feedback/simulated_listeners.yaml)

Without `calibrate`: the agreement at the noise that the parameters state, for each setting. With it: the noise at which
listeners agree as often as each setting says, to be written into the parameters. It prints; it writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.errors import UserError
from configs.command_line import exit_status_of, parse_settings
from configs.prompts import load_prompts
from evaluation.statistics import Interval
from feedback.simulated_parameters import DEFAULT_FILE, PARTS, Parameters, load_parameters

MAX_PROMPT_CHARS = 2000


@dataclass
class ListenerSettings:
    policy: str = "assets/tiny/policy"
    codec: str = "assets/tiny/codec"
    prompts: str = "assets/tiny/prompts/train.txt"
    pairs: int = 1000
    seconds: float = 4.0
    seed: int = 0
    threads: int = 1
    listeners: str = str(DEFAULT_FILE)


@dataclass(frozen=True)
class Measured:
    """One setting of the listeners, measured on pairs of one policy. Shares in [0, 1]."""

    setting: int  # agreement that the setting promises, per cent
    noise: float
    agreement: float
    undecided: float  # ties and neither
    best: Interval  # accuracy of the best rule that does not know the listener
    best_known: Interval  # that knows the listener
    rules: dict[str, Interval]  # "higher X" -> accuracy
    best_of_group: dict[str, Interval]  # of the best rule for one group alone
    utility_on_group: dict[str, Interval]  # of "higher utility" of the population, on one group's answers


def measure_listeners(settings: ListenerSettings, calibrate: bool = False) -> list[Measured]:
    """Samples the pairs and measures every setting. Raises UserError for what cannot be used."""
    parameters = load_parameters(settings.listeners)
    prompts = load_prompts(settings.prompts, "", MAX_PROMPT_CHARS, "prompts")
    import torch

    from feedback.simulated_panel import draw_panel, duel, solve_noise
    from feedback.simulated_utility import population_utility

    torch.set_num_threads(settings.threads)
    whole, prefix = _heard(settings, parameters, prompts)
    fight = duel(draw_panel(parameters, settings.seed).counted, whole, prefix)
    utility = [population_utility(side, parameters) for side in whole]
    found = []
    for setting, stated in parameters.noise.items():
        noise = solve_noise(fight, setting / 100) if calibrate else stated
        rules = {name: (getattr(whole[0], name), getattr(whole[1], name)) for name in PARTS if name != "taste"}
        found.append(_measured(setting, noise, fight, {**rules, "utility": (utility[0], utility[1])}))
    return found


def _heard(settings: ListenerSettings, parameters: Parameters, prompts: list[str]):
    """What is heard of all pairs: the arguments of `duel`."""
    from feedback.simulated_clips import PairSource, hear_pairs
    from feedback.simulated_ear import SimulatedEar
    from feedback.simulated_utility import join_heard
    from policy.port import SamplingSettings

    ear = SimulatedEar.load(parameters.ear)
    sampling = SamplingSettings(0.99, 1.0)
    source = PairSource(settings.policy, settings.codec, prompts, sampling, settings.seconds, settings.seed)
    parts = [hear_pairs(ear, pairs, parameters) for pairs in source.pairs(range(settings.pairs))]
    whole, prefix = (tuple(join_heard([part[i][side] for part in parts]) for side in (0, 1)) for i in (0, 1))
    return whole, prefix


def _measured(setting: int, noise: float, fight, rules: dict[str, tuple[np.ndarray, np.ndarray]]) -> Measured:
    from feedback.simulated_ceiling import (
        best_accuracy,
        best_accuracy_known,
        expected_answers,
        group_members,
        rule_accuracy,
    )
    from feedback.simulated_panel import agreement

    answers = expected_answers(fight, noise)
    by_group = {
        group.name: expected_answers(fight, noise, group_members(fight.panel, group.name))
        for group in fight.panel.parameters.groups
    }
    return Measured(
        setting,
        noise,
        agreement(fight, noise),
        float(1.0 - answers.decided.mean()),
        best_accuracy(answers),
        best_accuracy_known(answers),
        {name: rule_accuracy(answers, *scores) for name, scores in rules.items()},
        {name: best_accuracy(own) for name, own in by_group.items()},
        {name: rule_accuracy(own, *rules["utility"]) for name, own in by_group.items()},
    )


def lines_of(measured: Measured) -> list[str]:
    """What is printed of one setting."""
    shown = {
        "best accuracy possible, listener unknown": measured.best,
        "best accuracy possible, listener known": measured.best_known,
        **{f"higher {name}": interval for name, interval in measured.rules.items()},
        **{f"best possible among the {name}": interval for name, interval in measured.best_of_group.items()},
        **{f"higher utility among the {name}": interval for name, interval in measured.utility_on_group.items()},
    }
    rows = [f"  {name:42} {100 * i.value:5.1f} % [{100 * i.low:.1f}, {100 * i.high:.1f}]" for name, i in shown.items()]
    return [
        f"setting agreement={measured.setting}: noise {measured.noise:.4f}",
        f"  {'two simulated listeners agree on':42} {100 * measured.agreement:5.1f} %",
        f"  {'tie or neither':42} {100 * measured.undecided:5.1f} %",
        *rows,
    ]


def main(argv: Sequence[str]) -> int:
    """Exit status 0, or 2 with one line for input that cannot be used."""
    words = list(argv)
    if words and words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    return exit_status_of(lambda: _run(words))


def _run(words: Sequence[str]) -> None:
    calibrate = bool(words) and words[0] == "calibrate"
    settings = parse_settings(words[1:] if calibrate else words, ListenerSettings())
    _check(settings)
    for measured in measure_listeners(settings, calibrate):
        print("\n".join(lines_of(measured)), flush=True)


def _check(settings: ListenerSettings) -> None:
    for name in ("policy", "codec"):
        if not Path(getattr(settings, name)).is_dir():
            raise UserError(f"{name}: got {getattr(settings, name)!r}, allowed an existing directory")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
