"""What a listener may write as a prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from configs.errors import UserError

# Unicode categories that are no text: control, surrogate, private use, unassigned; and format, which can hide or turn
# text, but for the two joiners that some scripts and emoji need.
_FORBIDDEN = frozenset({"Cc", "Cs", "Co", "Cn", "Cf"})
_JOINERS = frozenset("\u200c\u200d")


class PromptRefused(ValueError):
    """Why a prompt cannot be used, in words for the listener."""


class PromptRules:
    """Length, characters and a list of words and phrases that are not taken.

    A blocked word matches whole words only, whatever the case, width or accents of its letters.
    """

    def __init__(self, max_chars: int, blocked: Iterable[str] = ()) -> None:
        self.max_chars = max_chars
        words = sorted({_plain(word) for word in blocked} - {""})
        self._blocked = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)") if words else None

    def clean(self, text: str) -> str:
        """The prompt as it is used: normalised, spaces collapsed. Raises PromptRefused."""
        if any(unicodedata.category(char) in _FORBIDDEN and char not in _JOINERS for char in _spaced(text)):
            raise PromptRefused("the prompt holds characters that are not text")
        prompt = " ".join(unicodedata.normalize("NFC", text).split())
        if len(prompt) > self.max_chars:
            raise PromptRefused(f"the prompt has {len(prompt)} characters, allowed at most {self.max_chars}")
        if not any(char.isalnum() for char in prompt):
            raise PromptRefused("the prompt is empty, write a few words")
        if self._blocked is not None and self._blocked.search(_plain(prompt)):
            raise PromptRefused("this prompt is not taken here, please write another one")
        return prompt


def load_blocklist(path: str) -> list[str]:
    """Words and phrases, one a line; empty lines and lines with # are skipped. Raises UserError."""
    if not path:
        return []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"prompts.blocklist: got {path!r}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"prompts.blocklist: got {path!r}, allowed a text file in UTF-8") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _spaced(text: str) -> str:
    """Line ends and tabs are spaces to a prompt."""
    return re.sub(r"[\t\r\n]", " ", text)


def _plain(text: str) -> str:
    """Case, width and accents taken off, spaces collapsed."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join(char for char in decomposed if not unicodedata.combining(char)).split())
