"""How the report and the tables speak of scores."""

from __future__ import annotations

import math

from evaluation.score_rows import MIXTURE

_TITLES = {
    MIXTURE: "Reward mixture",
    "second_text_audio": "Second text-audio model",
    "second_preference": "Second preference model",
}
_DESCRIPTIONS = {
    MIXTURE: "The run's rewards, normalised one by one, weighted and summed.",
    "text_adherence": "Does the clip match its prompt: cosine of the two towers, \u22121 to 1.",
    "quality": "How clean it sounds, without a reference: MOS from 1 to 5.",
    "second_text_audio": "Does the clip match its prompt, by towers of other design and data: cosine, \u22121 to 1.",
    "attributes": "Are the attributes that the prompt names heard in the clip: mean probability.",
    "tempo": "Does the clip have as many onsets as the named tempo asks for: probability.",
    "spectrum": "Is its spectrum like that of real clips of the named instrument: minus the distance, in sd.",
    "second_preference": "What other listeners would prefer, by a model fitted to their choices alone.",
    "preference": "What listeners would prefer, by the model fitted to their choices.",
}


def title_of(name: str) -> str:
    """`text_adherence` -> `Text adherence`; the mixture by what it is."""
    return _TITLES.get(name) or name.replace("_", " ").capitalize()


def describe(name: str) -> str:
    """What a known reward measures; nothing for a user's own."""
    return _DESCRIPTIONS.get(name, "")


def signed(value: float | None, digits: int = 2) -> str:
    """+0.31, -0.02 with a real minus sign; a dash where there is no number."""
    return "\u2013" if value is None or not math.isfinite(value) else f"{value:+.{digits}f}".replace("-", "\u2212")


def percent(share: float | None) -> str:
    """0.436 -> `44 %`; a dash where there is no number."""
    return "\u2013" if share is None or not math.isfinite(share) else f"{100 * share:.0f} %".replace("-", "\u2212")


def number(value: float | None, digits: int = 3) -> str:
    """-0.0831 -> `\u22120.083`; a dash where there is no number."""
    return "\u2013" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "\u2212")
