"""Measures every figure of the model card again, from the shipped files alone, and writes the card.

    python -m evaluation.model_card [assets=assets/tiny] [section=NAME] [threads=2]

Writes ASSETS/MODEL_CARD.md and ASSETS/model_card.json (with section=NAME: prints that section and writes nothing).
Exit status: 0; 1 where a figure lies outside its bounds, that is near chance; 2 for input that cannot be used.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.errors import UserError
from configs.command_line import exit_status_of, parse_settings
from evaluation.card_figures import SECTIONS, Assets, Figure
from world.tunes import COLLECTIONS

CARD, NUMBERS = "MODEL_CARD.md", "model_card.json"
COMMAND = "python -m evaluation.model_card"
SECTION_TITLES = {
    "codec": "Codec and semantic tokens",
    "text_adherence": "Text adherence (reward)",
    "quality": "Acoustic quality (reward)",
    "agreement": "Scores in a run (no phase) against scores of the waveform",
    "judges": "Held-out judges",
    "policy": "Base policy: likelihood of test clips",
    "base": "Base policy: what it plays",
}
INTRODUCTION = """# Model card of the tiny world

A small codec, semantic tokens, a text-audio model, a quality model, a base policy and held-out judges, all trained on
one synthetic corpus: public-domain tunes, arranged at random and rendered with a General MIDI soundfont, with captions
written from the arrangement's own facts. They exist so that MusicRL can be run, tested and understood without any
download. They know eight instruments and nothing of singing, studio sound or musical taste; a high score means
"sounds like this corpus", not "good music".

Every figure below is measured by `{command}` from the files of this folder alone, on tunes that no model was trained
on; the command ends with status 1 if one falls outside its bounds.
"""


@dataclass
class CardSettings:
    assets: str = "assets/tiny"
    section: str = ""
    threads: int = 2


def main(argv: list[str]) -> int:
    return exit_status_of(lambda: _measure(argv))


def _measure(argv: list[str]) -> int:
    settings = parse_settings(argv, CardSettings())
    if settings.section and settings.section not in SECTIONS:
        raise UserError(f"section: got {settings.section!r}, allowed {', '.join(SECTIONS)}")
    torch.set_num_threads(settings.threads)
    measured = measure(settings.assets, [settings.section] if settings.section else list(SECTIONS))
    if not settings.section:
        write_card(settings.assets, measured)
    failed = [
        f"{section}: {f.name} = {f.value:.3g}" for section, all_ in measured.items() for f in all_ if not f.passes
    ]
    for line in failed:
        print(f"outside its bounds: {line}")
    print(f"{sum(map(len, measured.values()))} figures, {len(failed)} outside their bounds")
    return 1 if failed else 0


def measure(directory: str | Path, sections: list[str]) -> dict[str, list[Figure]]:
    """Section by section, with progress. Raises UserError where a shipped file is missing or broken."""
    assets, measured = Assets(directory), {}
    for section in sections:
        started = time.monotonic()
        measured[section] = SECTIONS[section](assets)
        print(f"{SECTION_TITLES[section]} ({time.monotonic() - started:.0f} s)", flush=True)
        for figure in measured[section]:
            print(f"  {figure.name:<38} {figure.value:10.3f}  {'' if figure.passes else 'OUTSIDE ITS BOUNDS'}")
    return measured


def write_card(directory: str | Path, measured: dict[str, list[Figure]]) -> None:
    """Both forms of the card, into the folder that they describe."""
    folder = Path(directory)
    training = _training(folder)
    rows = {section: [{**asdict(f), "passes": f.passes} for f in figures] for section, figures in measured.items()}
    numbers = {"figures": rows, "files": _files(folder), "training": training, "collections": COLLECTIONS}
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    parts = [INTRODUCTION.format(command=COMMAND), _training_part(training)]
    parts += [_section_part(section, figures) for section, figures in measured.items()]
    parts += [_collections_part(), _files_part(_files(folder))]
    (folder / CARD).write_text("\n".join(parts), encoding="utf-8")


def _section_part(section: str, figures: list[Figure]) -> str:
    lines = [f"## {SECTION_TITLES[section]}", "", f"`{COMMAND} section={section}`", ""]
    lines += ["| figure | value | what | bound |", "|---|---:|---|---|"]
    lines += [f"| {f.name} | {f.value:.3f} | {f.meaning} | {_bound(f)} |" for f in figures]
    return "\n".join([*lines, ""])


def _bound(figure: Figure) -> str:
    sides = [(figure.least, "at least"), (figure.most, "at most")]
    return ", ".join(f"{word} {value:.3g}" for value, word in sides if value is not None)


def _training_part(training: dict[str, dict[str, Any]]) -> str:
    """What each model declares of its own training."""
    lines = ["## How they were trained", ""]
    for name, entries in training.items():
        lines.append(
            f"- **{name}**: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in entries.items())
        )
    return "\n".join([*lines, ""])


def _training(folder: Path) -> dict[str, dict[str, Any]]:
    """The training.json beside each model that has one."""
    return {
        path.parent.relative_to(folder).as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("training.json"))
    }


def _collections_part() -> str:
    lines = ["## Where the tunes come from", "", "| collection | used | rights |", "|---|---|---|"]
    lines += [f"| {c['name']} | {'yes' if c['used'] else 'no'} | {c['rights']} |" for c in COLLECTIONS.values()]
    return "\n".join([*lines, ""])


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and content hash of every shipped model file; the sounds as one sum."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".parquet", ".jsonl", ".txt") and path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    sounds = sorted(folder.rglob("*.flac"))
    files[f"{len(sounds)} FLAC files"] = {"bytes": sum(path.stat().st_size for path in sounds), "sha256": ""}
    return files


def _files_part(files: dict[str, dict[str, Any]]) -> str:
    lines = ["## Files", "", "| file | bytes | sha256 |", "|---|---:|---|"]
    lines += [f"| {name} | {entry['bytes']:,} | {entry['sha256']} |" for name, entry in files.items()]
    total = sum(entry["bytes"] for entry in files.values())
    return "\n".join([*lines, f"| all | {total:,} | |", ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
