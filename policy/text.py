"""Prompts to text tokens: a fixed list of words, hashed buckets for all others, one fixed length."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

PAD = 0  # the learnt pad token; a text of nothing but pads is the null condition
WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
# Words that tell nothing about the sound: left out, so that the fixed length holds longer captions
FILLERS = frozenset(
    {"a", "an", "the", "is", "are", "this", "that", "i", "of", "we", "you", "it", "its", "be", "to", "and"}
)

# Words that people use in music captions and that the world's own captions need not contain
MUSIC_WORDS = """
    acapella ambient anthem arpeggio atmospheric background ballad band baroque bass bassline beat beats bells blues
    bossa brass bright bongo cello cheerful chill chilled choir chord chords cinematic clarinet classical club
    country crescendo dance dark deep delicate distorted disco double-bass downtempo dramatic dreamy drone drum
    drums dub dubstep edm electric electro electronic emotional energetic epic ethereal experimental fast female
    festive folk funk funky fuzz gentle gloomy gospel groove groovy guitar guitars happy hard harmonic harmonica
    harmony harp heavy high hip-hop hop horn house hymn indie industrial instrument instrumental instruments intense
    jazz jazzy joyful keyboard latin lo-fi lofi loop loud low lullaby lush male mallet mandolin marimba melancholic
    melancholy mellow melodic melody metal minor major minimal minimalist modern mood movie music muted mysterious
    new-age noise noisy nostalgic oboe opera orchestra orchestral organ oriental pad pads passionate peaceful
    percussion piano playful pop powerful progressive psychedelic punchy punk quiet rap raw recording reggae
    relaxing retro reverb rhythm rhythmic rock romantic sad samba sax saxophone sentimental simple sitar ska slow
    slide soft solo song soothing soul soundtrack spacey spiritual string strings strum suspenseful swing synth
    synthesiser synths tabla techno tempo tense traditional trance trap trombone tropical trumpet tuba ukulele
    upbeat uplifting vibe vibraphone viola violin vocal vocals voice waltz warm whistle woodwind xylophone young
"""


@dataclass(frozen=True)
class TextTokenizer:
    """Token 0 is the pad, then the words in order, then `buckets` tokens that unknown words share by hash."""

    words: tuple[str, ...]
    buckets: int = 64
    length: int = 24  # L

    @property
    def size(self) -> int:
        """Entries of the text embedding."""
        return 1 + len(self.words) + self.buckets

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> [B, L] int64; longer ones are cut, shorter ones padded, an empty one is all pads."""
        tokens = torch.full((len(prompts), self.length), PAD, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids = self._ids(prompt)[: self.length]
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return tokens

    def _ids(self, prompt: str) -> list[int]:
        found: list[int] = []
        for word in WORD.findall(prompt.lower()):
            parts = [word] if word in self._index else word.split("-")
            found += [self._index.get(part) or self._bucket(part) for part in parts if part not in FILLERS]
        return found

    def _bucket(self, word: str) -> int:
        digest = hashlib.sha256(word.encode("utf-8", errors="replace")).digest()
        return 1 + len(self.words) + int.from_bytes(digest[:4], "big") % self.buckets

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: 1 + place for place, word in enumerate(self.words)}


def default_tokenizer() -> TextTokenizer:
    """The words of the tiny world's captions and prompts, and the common ones of music captions."""
    from world.captions import all_words  # here, so that reading a checkpoint does not need the world

    words = {*all_words(), *MUSIC_WORDS.split()}
    return TextTokenizer(tuple(sorted(word for word in words if word not in FILLERS)))
