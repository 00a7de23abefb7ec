"""What a pair remembers of the Music Arena file that it came from, and the battle's JSON made again with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from feedback import json_delta
from feedback.battle import Json, Shape
from feedback.battle_json import MAKERS, Told
from feedback.reader import Reader
from feedback.records import Vote

FORMAT = "music_arena"


@dataclass(frozen=True)
class Origin:
    """Paths are relative to the imported folder."""

    shape: Shape
    file: str
    audio_a: str
    audio_b: str
    delta: Json = field(default_factory=dict)  # what the file held beyond what `MAKERS[shape]` makes of the records

    def text(self) -> str:
        """JSON in ASCII, for `Pair.origin`."""
        return json.dumps({"format": FORMAT, **asdict(self)})


def origin_of(text: str) -> Origin | None:
    """None for a pair that was not imported from the arena."""
    held = json.loads(text) if text else {}
    if held.pop("format", None) != FORMAT:
        return None
    return Origin(**held | {"shape": Shape(held["shape"])})


def told_of(reader: Reader, vote: Vote, audio_a: str, audio_b: str) -> Told:
    """A vote with all that belongs to it."""
    pair = reader.pair(vote.pair_id)
    clips = reader.clip(pair.clip_a), reader.clip(pair.clip_b)
    return Told(vote, pair, *clips, reader.listener(vote.listener_id), audio_a, audio_b)


def original_json(reader: Reader, vote: Vote, origin: Origin) -> Json:
    """The JSON that was imported."""
    return json_delta.apply(MAKERS[origin.shape](told_of(reader, vote, origin.audio_a, origin.audio_b)), origin.delta)
