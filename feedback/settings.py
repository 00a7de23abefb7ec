"""Every setting of the listening app, with its meaning and bounds; from the words of a command line to `Settings`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limits import parse_many

from configs.command_line import nearest
from configs.errors import UserError
from configs.keys import Key
from configs.paths import PROJECT_ROOT
from configs.setting import allowed_of, meaning_of, setting
from configs.values import convert, shown
from feedback.published import PREFIX
from feedback.repertoire import is_followed


@dataclass
class LogSettings:
    dir: str = setting("feedback_log", "folder of the preference log: clips as FLAC, the app's key, the SQLite file")
    url: str = setting("", "database, postgresql://… or sqlite:///FILE; empty: preferences.sqlite in log.dir")


@dataclass
class HeardSettings:
    share: float = setting(0.5, "of each clip that has to be heard before an answer counts", at_least=0, at_most=1)
    at_least_s: float = setting(2.0, "and at least so many seconds, or the whole of a shorter clip", at_least=0)


@dataclass
class SamplingSettings:
    temperature: float = setting(0.99, "of the sampled distribution (0.99: paper, section 4.2)", above=0, at_most=10)
    guidance_scale: float = setting(1.0, "classifier-free guidance; 1: off", at_least=0, at_most=20)


@dataclass
class PoolSettings:
    pairs: int = setting(8, "pairs of suggested prompts made ahead", at_least=1, at_most=10_000)
    listeners: int = setting(2, "different listeners that one such pair is offered to", at_least=1)


@dataclass
class MakerSettings:
    actors: int = setting(1, "Ray actors that make clips", at_least=1, at_most=1024)
    cpus: int = setting(1, "of each, and its torch threads", at_least=1, at_most=256)
    deadline_s: float = setting(60.0, "a listener's own prompt is answered, or said to have failed, within it", above=0)
    queue: int = setting(20, "own prompts that may wait; more are told to try later", at_least=1)


@dataclass
class PromptSettings:
    suggestions: str = setting("assets/tiny/prompts/train.txt", "suggested prompts: text, CSV, JSONL or Parquet")
    max_chars: int = setting(300, "of a listener's own prompt", at_least=1, at_most=2000)
    blocklist: str = setting("", "file of words and phrases, one a line, that no prompt may hold; empty: none")


@dataclass
class LimitSettings:
    """As the library `limits` writes rates: 60/minute; several apart by semicolons."""

    votes: str = setting("60/minute;1000/day", "answers of one listener")
    prompts: str = setting("20/minute;300/day", "pairs asked for by one listener")
    requests: str = setting("900/minute", "all requests of one address")
    listeners: str = setting("60/hour", "new listeners from one address")


@dataclass
class StudySettings:
    name: str = setting("", "of a side-by-side evaluation at /study/NAME; empty: none")
    prompts: str = setting("assets/tiny/prompts/eval.txt", "its fixed list, same formats")
    count: int = setting(20, "prompts of the list, from its start", at_least=1)
    raters: int = setting(3, "listeners that rate each pair", at_least=1, at_most=1000)
    seed: int = setting(0, "of its clips", at_least=0, at_most=2**32 - 1)


@dataclass
class Settings:
    policies: str = setting(
        "base=assets/tiny/policy", "NAME=FOLDER or NAME=registry:PLACE,… that are compared; of one, two samples are"
    )
    same: float = setting(0.0, "share of pairs in which the first policy plays both clips", at_least=0, at_most=1)
    groups: str = setting("", "names of groups, apart by commas; /?group=NAME invites new listeners into one")
    codec: str = setting("assets/tiny/codec", "folder of the codec")
    seconds: float = setting(4.0, "length of the clips", above=0, at_most=120)
    loudness_dbfs: float | None = setting(-20.0, "level that clips are brought to (RMS); null: as sampled", at_most=0)
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for all")
    port: int = setting(8000, "of the page", at_least=1, at_most=65535)
    https: bool = setting(False, "people reach the page by https (through a proxy in front): cookies say Secure")
    proxies: int = setting(0, "trusted proxies in front, each of which adds to X-Forwarded-For", at_least=0, at_most=8)
    operator: str = setting("", "who runs the page and how to reach them, shown in the notice to listeners")
    session_days: int = setting(90, "a listener is remembered", at_least=1, at_most=400)
    log: LogSettings = field(default_factory=LogSettings)
    heard: HeardSettings = field(default_factory=HeardSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    maker: MakerSettings = field(default_factory=MakerSettings)
    prompts: PromptSettings = field(default_factory=PromptSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    study: StudySettings = field(default_factory=StudySettings)

    @property
    def log_url(self) -> str:
        return self.log.url or f"sqlite:///{Path(self.log.dir).absolute() / 'preferences.sqlite'}"

    @property
    def audio_dir(self) -> Path:
        return Path(self.log.dir).absolute() / "audio"

    @property
    def group_names(self) -> tuple[str, ...]:
        """Groups into which a link may invite."""
        return tuple(name.strip() for name in self.groups.split(",") if name.strip())

    @property
    def policy_folders(self) -> dict[str, str]:
        """Name -> folder or registry:PLACE, in the order given. Raises UserError."""
        return parse_policies(self.policies)


def load_settings(argv: Sequence[str]) -> Settings:
    """`key=value` words -> Settings, model and prompt paths absolute where they exist.

    Raises UserError: a word without "=", an unknown key (with the nearest right one), a wrong type or range.
    """
    known = {key.path: key for key in all_settings()}
    settings, seen = Settings(), set()
    for word in argv:
        path, equals, text = word.partition("=")
        if not equals or path.startswith("-"):
            raise UserError(f"{shown(word)}: not understood, write key=value (see --help)")
        if path not in known:
            raise UserError(f"{path}: unknown key{_suggestion(path, known)}; see --help")
        if path in seen:
            raise UserError(f"{path}: given twice")
        seen.add(path)
        section, _, leaf = path.rpartition(".")
        setattr(getattr(settings, section) if section else settings, leaf, convert(path, text, known[path]))
    return _checked(settings)


def all_settings() -> list[Key]:
    """Each setting under its dotted name, in the order of `Settings`."""
    return list(_keys_of(Settings, ""))


def usage() -> str:
    """The text of `--help`."""
    lines = ["usage: python -m feedback.main [key=value ...]", ""]
    for key in all_settings():
        default = "null" if key.default is None else str(key.default)
        lines.append(f"  {key.path + '=' + default:<58} {key.meaning}")
    lines += ["", "environment: FEEDBACK_ADMIN_TOKEN opens /admin (at least 16 characters; unset: no admin pages)"]
    lines += ["             RAY_ADDRESS joins a cluster; unset: a small one is started here"]
    return "\n".join(lines)


def parse_policies(text: str) -> dict[str, str]:
    """`base=DIR,tuned=DIR` -> name -> folder. Raises UserError."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, folder = (piece.strip() for piece in part.partition("="))
        if not (equals and name and folder) or not name.replace("_", "").replace("-", "").isalnum():
            raise UserError(f"policies: got {shown(part)}, allowed NAME=FOLDER, apart by commas")
        if name in found:
            raise UserError(f"policies: got the name {name} twice, allowed once each")
        found[name] = folder
    return found


def needed_seconds(settings: HeardSettings, seconds: float) -> float:
    """How much of a clip has to be heard before an answer counts."""
    return min(seconds, max(settings.share * seconds, settings.at_least_s))


def _keys_of(schema: Any, prefix: str) -> Iterator[Key]:
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from _keys_of(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield Key(prefix + item.name, hints[item.name], item.default, meaning_of(item), allowed_of(item))


def _checked(settings: Settings) -> Settings:
    for name, rate in dataclasses.asdict(settings.limits).items():
        try:
            parse_many(rate)
        except ValueError:
            raise UserError(f"limits.{name}: got {rate!r}, allowed rates such as 60/minute;1000/day") from None
    name = settings.study.name
    if name and not (name.replace("_", "").replace("-", "").isalnum() and name.isascii() and len(name) <= 60):
        raise UserError(f"study.name: got {shown(name)}, allowed up to 60 letters, digits, - and _")
    settings.policies = ",".join(f"{name}={_resolve_policy(path)}" for name, path in settings.policy_folders.items())
    for group in settings.group_names:
        if not (group.replace("_", "").replace("-", "").isalnum() and group.isascii() and len(group) <= 60):
            raise UserError(f"groups: got {shown(group)}, allowed up to 60 letters, digits, - and _")
    settings.codec = _resolve(settings.codec)
    settings.prompts.suggestions = _resolve(settings.prompts.suggestions)
    settings.prompts.blocklist = _resolve(settings.prompts.blocklist)
    settings.study.prompts = _resolve(settings.study.prompts)
    return settings


def _resolve_policy(text: str) -> str:
    """A folder as `_resolve` finds it; of a registry, its place."""
    if not is_followed(text):
        return _resolve(text)
    place, at, which = text.removeprefix(PREFIX).partition("@")
    return f"{PREFIX}{_resolve(place)}{at}{which}"


def _resolve(text: str) -> str:
    """A relative path, absolute from the current folder or else from the project's, if it exists there."""
    path = Path(text).expanduser()
    for base in (Path.cwd(), PROJECT_ROOT):
        if text and (base / path).exists():
            return str((base / path).absolute())
    return str(path) if text else ""


def _suggestion(path: str, known: dict[str, Key]) -> str:
    """The nearest dotted name, or the one whose last part is nearest."""
    leaves = {key.rpartition(".")[2]: key for key in known}
    return nearest(path, known) or nearest(leaves.get(path.rpartition(".")[2], ""), known)
