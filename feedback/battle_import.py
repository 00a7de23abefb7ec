"""Music Arena battles into the log: a folder of JSON files in either shape (`feedback.battle`), with their sound.

What comes in goes out equal, JSON and sound (`feedback.battle_export`): a pair keeps, as its `origin`, where its files
stood and what the JSON held beyond what its records say. Sound that is no FLAC is kept beside the FLAC made from it.

The arena logs when a listener listened, not to which part: the time heard is entered as one stretch from the clip's
beginning, at most as long as the clip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from feedback import json_delta
from feedback.appender import Appender
from feedback.battle import Battle, Json, Side, Unusable, read_battle
from feedback.battle_json import MAKERS, PSEUDONYM, Told, anonymous
from feedback.battle_origin import Origin, origin_of, original_json
from feedback.errors import Reason, Refused
from feedback.exchange import reason_of
from feedback.flac import sha256
from feedback.imported_audio import Sound, read_sound
from feedback.preference_log import PreferenceLog
from feedback.records import Clip, Consent, ExchangeReport, Listener, Pair, Played, Vote

STUDY = GROUP = "music_arena"
UNKNOWN_SEED = -1
MAX_JSON_BYTES, MAX_AUDIO_BYTES = 1 << 22, 1 << 28
_BESIDE = ("", "audio", "audio_files")  # folders in which sound may stand, beside the JSON or in any folder above it


def import_battles(
    log: PreferenceLog, folder: str | Path, consent: Consent = Consent.TRAIN, study: str = STUDY
) -> ExchangeReport:
    """Adds every battle under `folder`; the report names each file that was left out, and why.

    consent: what the arena's listeners are taken to allow. study: the name under which the pairs stand in the log.
    Raises UserError: no such folder, or no JSON in it.
    """
    root = Path(folder)
    files = sorted(path for path in root.rglob("*.json") if not path.is_dir()) if root.is_dir() else []
    if not files:
        raise UserError(f"path: got {root}, allowed a folder with battles as JSON files")
    report = ExchangeReport()
    for path in files:
        name = path.relative_to(root).as_posix()
        try:
            if _BattleFile(log, root, path, consent, study).take():
                report.take("battles")
            else:
                report.present += 1
        except Unusable as problem:
            report.leave_out(name, str(problem))
        except Refused as refusal:
            report.leave_out(name, reason_of(refusal))
        except RecursionError:
            report.leave_out(name, "bad JSON: nested too deeply")
    return report


class _BattleFile:
    """One file on its way into the log."""

    def __init__(self, log: PreferenceLog, root: Path, path: Path, consent: Consent, study: str) -> None:
        self._log, self._root, self._path, self._consent, self._study = log, root, path, consent, study

    def take(self) -> bool:
        """-> False where it was there. Raises Unusable, Refused."""
        data = _parse(_read(self._path, MAX_JSON_BYTES, "JSON"))
        battle = read_battle(data)
        if self._is_there(battle, data):
            return False
        sounds = {side: self._sound(battle, side) for side in ("a", "b")}
        for _, sound, original in sounds.values():
            self._log.audio.put(sound.flac)
            if sound.original:
                self._log.audio.put(original, Path(sound.original).suffix)
        places = [path.relative_to(self._root).as_posix() for path, _, _ in sounds.values()]
        clips = {side: _clip(battle, side, sound) for side, (_, sound, _) in sounds.items()}
        self._log.write(lambda appender: self._add(appender, battle, data, clips, places))
        return True

    def _add(
        self, appender: Appender, battle: Battle, data: Json, clips: dict[str, Clip], places: Sequence[str]
    ) -> None:
        listener = self._listener(battle)
        appender.add_listener(listener)
        clip_a, clip_b = (_add_clip(appender, clips[side]) for side in ("a", "b"))
        vote = _vote(battle, listener, clips)
        pair = Pair(
            pair_id=battle.uuid,
            prompt=battle.prompt,
            clip_a=clip_a.clip_id,
            clip_b=clip_b.clip_id,
            study=self._study,
            created_at=battle.voted_at,
            asked_by=listener.listener_id,
        )
        made = MAKERS[battle.shape](Told(vote, pair, clip_a, clip_b, listener, *places))
        origin = Origin(
            shape=battle.shape,
            file=self._path.relative_to(self._root).as_posix(),
            audio_a=places[0],
            audio_b=places[1],
            delta=json_delta.delta(made, data),
        )
        appender.add_pair(replace(pair, origin=origin.text()))
        appender.record_vote(vote)

    def _is_there(self, battle: Battle, data: Json) -> bool:
        """Whether this very battle was imported before. Raises Refused (conflict) for another of its id."""
        with self._log.snapshot() as reader:
            try:
                pair = reader.pair(battle.uuid)
            except Refused:
                return False
            origin, vote = origin_of(pair.origin), None
            if origin is not None and origin.shape is battle.shape:
                vote = reader.vote_of(self._listener(battle).listener_id, pair.pair_id)
            if origin is None or vote is None or not json_delta.same(original_json(reader, vote, origin), data):
                raise Refused(Reason.CONFLICT, "battle", "another one of this id is in the log")
        return True

    def _listener(self, battle: Battle) -> Listener:
        name = PSEUDONYM + battle.user if battle.user else anonymous(battle.uuid)
        return Listener(name, battle.kind, self._consent, GROUP)

    def _sound(self, battle: Battle, side: str) -> tuple[Path, Sound, bytes]:
        """-> where it stands, what it holds, its bytes. Raises Unusable."""
        said: Side = getattr(battle, side)
        if not said.audio:
            raise Unusable(f"missing audio: none is named for clip {side}")
        path = self._find(said.audio)
        if path is None:
            raise Unusable(f"missing audio: {said.audio[:80]!r} of clip {side} is not in the folder")
        data = _read(path, MAX_AUDIO_BYTES, "audio")
        try:
            return path, read_sound(data, said.duration_s), data
        except Unusable as problem:
            raise Unusable(f"{problem} ({path.name})") from None

    def _find(self, named: str) -> Path | None:
        """The file of that path or name, never outside of the folder."""
        for path in self._places(named):
            try:
                if path.is_file() and path.resolve().is_relative_to(self._root.resolve()):
                    return self._root / path.relative_to(self._root)
            except (OSError, ValueError):
                continue  # no name that a file can have, or one that climbs out
        return None

    def _places(self, named: str) -> Iterator[Path]:
        above = [folder for folder in self._path.parents if folder.is_relative_to(self._root)]
        for name in (named, Path(named).name):
            for folder in (self._root, *above):
                for beside in _BESIDE:
                    yield folder / beside / name.lstrip("/")


def _read(path: Path, most_bytes: int, what: str) -> bytes:
    try:
        if path.stat().st_size > most_bytes:
            raise Unusable(f"too large: {what} of {path.stat().st_size} bytes, allowed {most_bytes}")
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"unreadable file: {error.strerror or error}") from None


def _parse(text: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError:
        raise Unusable("bad JSON: no UTF-8") from None
    except ValueError as error:
        raise Unusable(f"bad JSON: {str(error).splitlines()[0]}") from None


def _clip(battle: Battle, side: str, sound: Sound) -> Clip:
    said: Side = getattr(battle, side)
    return Clip(
        clip_id=sha256(sound.flac),
        prompt=battle.prompt,
        policy=said.system or "unknown",
        policy_version=said.version,
        seed=UNKNOWN_SEED,
        sample_rate_hz=sound.facts.sample_rate_hz,
        seconds=sound.facts.seconds,
        original=sound.original,
    )


def _add_clip(appender: Appender, clip: Clip) -> Clip:
    """-> the clip as it is in the log: equal sound of another system or prompt is there under an id of its own."""
    if not appender.equal_or_new(clip):
        clip = replace(clip, clip_id=sha256(repr(clip.facts()).encode()), audio=clip.clip_id)
    appender.add_clip(clip)
    return clip


def _vote(battle: Battle, listener: Listener, clips: dict[str, Clip]) -> Vote:
    heard_a, heard_b = (_heard(getattr(battle, side).heard_s, clips[side].seconds) for side in ("a", "b"))
    ids = {"vote_id": battle.uuid, "pair_id": battle.uuid, "listener_id": listener.listener_id}
    return Vote(**ids, choice=battle.choice, played_a=heard_a, played_b=heard_b, voted_at=battle.voted_at)


def _heard(heard_s: float, seconds: float) -> Played:
    return Played(((0.0, min(heard_s, seconds)),) if heard_s > 0 else ())
