"""The log as Music Arena battles: a folder of JSON files in either shape (`feedback.battle_json`), with their sound.

Battles that were imported come out equal to their files, and under their names. All others are made from what the log
holds; ratings have no place in this format.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cluster.storage import write_bytes_atomic
from feedback.audio_store import FLAC
from feedback.battle import Shape
from feedback.battle_json import MAKERS
from feedback.battle_origin import Origin, origin_of, original_json, told_of
from feedback.exchange import require_empty
from feedback.flac import sha256
from feedback.preference_log import PreferenceLog
from feedback.reader import Reader
from feedback.records import Clip, Consent, ExchangeReport, Vote

FOLDERS = {Shape.FLAT: "battle_data", Shape.RAW: "logs"}
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")

_CONTROL = re.compile("[\x00-\x1f]")


class _Missing(Exception):
    """Why a battle cannot be written."""


def export_battles(
    log: PreferenceLog,
    folder: str | Path,
    shape: Shape | None = None,
    min_heard_s: float = 0.0,
    consent: Consent = Consent.TRAIN,
) -> ExchangeReport:
    """Writes a new folder, all of one moment.

    shape: of every file; None: imported battles as they came, the others flat. min_heard_s: of each clip. consent: the
    least that the listener gave by now. Simulated listeners' battles say so in a field `listener_kind`.
    Raises UserError: the folder has something in it.
    """
    out = _Folder(require_empty(folder))
    report = ExchangeReport()
    ranks = list(Consent)
    with log.snapshot() as reader:
        for vote in reader.votes():
            given = reader.listener(vote.listener_id).consent
            try:
                if ranks.index(given) < ranks.index(consent):
                    raise _Missing(f"consent: {given}, asked for {consent}")
                if min(vote.played_a.seconds, vote.played_b.seconds) < min_heard_s:
                    raise _Missing(f"not heard long enough: asked for {min_heard_s:g} s of each clip")
                out.write(_battle_files(log, reader, vote, shape))
                report.take("battles")
            except _Missing as problem:
                report.leave_out(f"vote {vote.vote_id}", str(problem))
        ratings = reader.counts().ratings
    if ratings:
        report.leave_out("ratings", f"no battle: {ratings} ratings have no place in this format")
    return report


@dataclass
class _Folder:
    """Files of many imports may have had one name: what does not fit beside what is there goes to a folder 2, 3, …"""

    root: Path
    written: dict[str, str] = field(default_factory=dict)  # path -> SHA-256

    def write(self, files: dict[str, bytes]) -> None:
        """All files of a battle, at the same distances from each other as they were."""
        hashes = {path: sha256(data) for path, data in files.items()}
        number = 1
        while any(self.written.get(_under(number, path), mine) != mine for path, mine in hashes.items()):
            number += 1
        for path, data in files.items():
            place = _under(number, path)
            if place not in self.written:
                write_bytes_atomic(self.root / place, data)
                self.written[place] = hashes[path]


def _under(number: int, path: str) -> str:
    return path if number == 1 else f"{number}/{path}"


def _battle_files(log: PreferenceLog, reader: Reader, vote: Vote, shape: Shape | None) -> dict[str, bytes]:
    """Path in the folder -> content: the JSON and the sound of both clips."""
    pair = reader.pair(vote.pair_id)
    clips = reader.clip(pair.clip_a), reader.clip(pair.clip_b)
    origin = origin_of(pair.origin)
    if origin is None or shape not in (None, origin.shape):
        origin = _own_origin(vote, clips, shape or Shape.FLAT)
        battle = MAKERS[origin.shape](told_of(reader, vote, origin.audio_a, origin.audio_b))
    else:
        battle = original_json(reader, vote, origin)
    text = json.dumps(battle, indent=1).encode("ascii")
    places = (origin.file, origin.audio_a, origin.audio_b)
    if not all(_is_inside(place) for place in places):
        raise _Missing("unknown origin: its files stood outside of the imported folder")
    return dict(zip(places, (text, *(_sound(log, clip) for clip in clips)), strict=True))


def _own_origin(vote: Vote, clips: tuple[Clip, Clip], shape: Shape) -> Origin:
    name = vote.vote_id if _FILE_NAME.fullmatch(vote.vote_id) else sha256(vote.vote_id.encode())
    audio_a, audio_b = (f"audio/{clip.original or clip.audio_sha256 + FLAC}" for clip in clips)
    return Origin(shape, f"{FOLDERS[shape]}/{name}.json", audio_a, audio_b)


def _sound(log: PreferenceLog, clip: Clip) -> bytes:
    """As it came."""
    data = log.audio.read(clip.original or clip.audio_sha256 + FLAC)
    if data is None:
        raise _Missing(f"missing audio: clip {clip.clip_id} is not in the audio folder, or changed")
    return data


def _is_inside(place: str) -> bool:
    path = PurePosixPath(place)
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts and not _CONTROL.search(place)
