"""The settings in words: `--help`, and docs/configuration.md (`python -m configs.reference` prints it)."""

from __future__ import annotations

from typing import Any

from configs.keys import Key, all_keys
from configs.paths import PRESETS
from configs.values import allowed_text

_INTRODUCTION = """# Configuration

Made from `configs/schema.py` by `python -m configs.reference > docs/configuration.md`. Do not edit.

    python -m learner.main [preset=NAME] [key=value …]

Values come from the defaults below, then from a preset, then from `key=value`; the later wins. A preset is the name
of a file in `configs/presets/` or the path of any YAML file with the same keys (a run's own `config.yaml` will do).
`rewards.NAME.…` stands for one reward each: `text_adherence`, `quality`, `preference`, or a name of your own with a
`target`. Values may refer to others, `${learner.batch_size}`, or to the environment, `${oc.env:NAME}`. Relative
paths of models and prompts are looked for in the current folder, then in the project's. What is wrong is
answered with one line and exit status 2 before anything starts.
"""


def markdown() -> str:
    """The page docs/configuration.md: presets, then a table for each section."""
    parts = [_INTRODUCTION, "## Presets\n", "| preset | what it is |\n|---|---|"]
    parts += [f"| `{name}` | {text} |" for name, text in presets().items()]
    for section, keys in _sections().items():
        parts += [f"\n## {section}\n", "| key | default | allowed | meaning |\n|---|---|---|---|"]
        parts += [f"| `{key.path}` | {_cell(key.default)} | {allowed_text(key)} | {key.meaning} |" for key in keys]
    return "\n".join(parts) + "\n"


def usage() -> str:
    """The text of `--help`."""
    lines = ["usage: python -m learner.main [preset=NAME] [key=value ...]", "", "presets:"]
    lines += [f"  {name:<12} {text}" for name, text in presets().items()]
    for keys in _sections().values():
        lines.append("")
        lines += [f"  {key.path + '=' + _plain(key.default):<44} {key.meaning}" for key in keys]
    lines += ["", "go on with an earlier run:  python -m learner.main run.resume=runs/NAME"]
    return "\n".join(lines)


def presets() -> dict[str, str]:
    """Name -> the first comment line of its file."""
    found = {}
    for path in sorted(PRESETS.glob("*.yaml")):
        found[path.stem] = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
    return found


def _sections() -> dict[str, list[Key]]:
    sections: dict[str, list[Key]] = {}
    for key in all_keys().values():
        sections.setdefault(key.path.split(".")[0], []).append(key)
    return sections


def _plain(value: Any) -> str:
    return "" if value is None else str(value).replace("'", "")


def _cell(value: Any) -> str:
    text = _plain(value)
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    print(markdown(), end="")
