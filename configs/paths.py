"""Where relative asset paths lead: the current folder first, then the project's root."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from configs.schema import Config

PROJECT_ROOT = Path(__file__).resolve().parent.parent
PRESETS = Path(__file__).resolve().parent / "presets"


def resolve_paths(config: Config, bases: tuple[Path, ...]) -> None:
    """Makes every asset path absolute, from the first base under which it exists; else it stays as it was typed."""
    _map_asset_paths(config, lambda text: _resolve(text, bases))


def existing_asset(text: str) -> str:
    """An asset path of a small command, absolute where it exists under the current folder or the project's root."""
    return _resolve(text, (Path.cwd(), PROJECT_ROOT))


def make_portable(config: Config) -> None:
    """Asset paths under the project's root become relative to it, so that a run folder can move between machines."""
    _map_asset_paths(config, _relative_to_root)


def _map_asset_paths(config: Config, change: Callable[[str], str]) -> None:
    config.policy.checkpoint = change(config.policy.checkpoint)
    config.policy.reference = change(config.policy.reference)
    config.codec.checkpoint = change(config.codec.checkpoint)
    config.prompts.train = change(config.prompts.train)
    config.prompts.eval = change(config.prompts.eval)
    config.evaluation.judges = change(config.evaluation.judges)
    config.guard.second_preference = change(config.guard.second_preference)
    for reward in config.rewards.values():
        reward.checkpoint = change(reward.checkpoint)
        reward.environment = change(reward.environment)


def _resolve(text: str, bases: tuple[Path, ...]) -> str:
    if not text or "://" in text:
        return text
    path = Path(text).expanduser()
    for base in bases:
        if (base / path).exists():
            return str((base / path).absolute())
    return str(path)


def _relative_to_root(text: str) -> str:
    path = Path(text)
    return str(path.relative_to(PROJECT_ROOT)) if text and path.is_relative_to(PROJECT_ROOT) else text
