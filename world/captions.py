"""Captions in varied words, written from a clip's true attributes.

A caption is a core ("a nimble fiddle tune") and clauses ("over strummed guitar", "no drums") in changing order and in
one of several manners of speaking, from plain tags to a sentence. Each attribute may be left unsaid, the lead rarely.
"""

from __future__ import annotations

import re

import numpy as np

from world.attributes import ATTRIBUTES, Attributes, other_value

Phrases = dict[str, tuple[str, ...]]  # wordings of each value of an attribute

# How often each attribute is said at all
SAID = {"lead": 0.97, "tempo": 0.9, "drums": 0.88, "chords": 0.88, "register": 0.8, "articulation": 0.8}

LEAD: Phrases = {
    "piano": ("piano", "piano", "grand piano", "acoustic piano", "keyboard piano", "pianist"),
    "violin": ("violin", "violin", "fiddle", "bowed violin", "solo violin", "fiddler"),
    "flute": ("flute", "flute", "wooden flute", "concert flute", "airy flute", "flautist"),
    "trumpet": ("trumpet", "trumpet", "brass trumpet", "bright trumpet", "horn of brass", "trumpeter"),
    "accordion": ("accordion", "accordion", "squeezebox", "reedy accordion", "button accordion", "musette"),
    "banjo": ("banjo", "banjo", "plucked banjo", "five-string banjo", "twangy banjo", "bluegrass banjo"),
    "vibraphone": ("vibraphone", "vibraphone", "vibes", "mallet vibraphone", "glassy vibraphone", "metallophone"),
    "synth": ("synth", "synthesizer", "synth lead", "buzzing synth", "electronic lead", "sawtooth synth"),
}
TEMPO_ADJECTIVE: Phrases = {
    "slow": ("slow", "slow", "unhurried", "calm", "gentle", "leisurely", "relaxed", "lazy", "drowsy", "sparse"),
    "medium": ("medium", "moderate", "walking", "steady", "easygoing", "mid-tempo", "strolling", "measured"),
    "fast": ("fast", "fast", "quick", "lively", "brisk", "rapid", "energetic", "speedy", "frantic", "nimble"),
}
TEMPO_CLAUSE: Phrases = {
    "slow": ("at a slow tempo", "taking its time", "with few notes", "at a crawling pace", "in slow motion"),
    "medium": ("at a medium tempo", "at a moderate pace", "neither fast nor slow", "at walking pace", "in mid tempo"),
    "fast": ("at a fast tempo", "at high speed", "with a flurry of notes", "at a racing pace", "running along quickly"),
}
DRUMS_CLAUSE: Phrases = {
    "none": ("without drums", "no drums", "no percussion", "without any beat", "drumless", "free of percussion"),
    "rock": (
        "with a rock beat",
        "with a drum kit",
        "over kick and snare",
        "driven by a drum set",
        "with rock drums and hi-hat",
        "to a backbeat on the drums",
    ),
    "hand": (
        "with hand percussion",
        "with shaker and congas",
        "over conga drums",
        "with tambourine and shaker",
        "over latin percussion",
        "with bongos and a shaken rattle",
    ),
}
CHORDS_CLAUSE: Phrases = {
    "none": (
        "unaccompanied",
        "without chords",
        "no accompaniment",
        "melody only",
        "as a bare single line",
        "without backing harmony",
    ),
    "guitar": (
        "with strummed guitar",
        "over acoustic guitar chords",
        "backed by a strumming guitar",
        "with guitar and bass",
        "accompanied by steel-string guitar",
        "over rhythm guitar",
    ),
    "strings": (
        "with a string pad",
        "over held strings",
        "backed by a string orchestra",
        "with lush strings and bass",
        "accompanied by sustained strings",
        "over an orchestral cushion of strings",
    ),
}
REGISTER_ADJECTIVE: Phrases = {
    "low": ("low", "deep", "dark", "low-pitched", "rumbling"),
    "middle": ("mid-range", "middle-register", "medium-pitched", "centred"),
    "high": ("high", "high-pitched", "shrill", "soaring", "tinkling"),
}
REGISTER_CLAUSE: Phrases = {
    "low": ("in a low register", "deep down", "played low", "in the bottom octaves", "at a low pitch"),
    "middle": ("in the middle register", "at a middle pitch", "in the mid octaves", "played in the centre range"),
    "high": ("in a high register", "high up", "played high", "in the top octaves", "at a high pitch"),
}
ARTICULATION_ADJECTIVE: Phrases = {
    "legato": ("smooth", "flowing", "legato", "singing", "connected", "lyrical"),
    "staccato": ("choppy", "staccato", "clipped", "bouncy", "detached", "pointed"),
}
ARTICULATION_CLAUSE: Phrases = {
    "legato": ("played legato", "with smooth long notes", "in a flowing line", "notes tied together", "sustained"),
    "staccato": ("played staccato", "with short notes", "in clipped hops", "notes cut short", "crisp and dry"),
}
PIECE = ("tune", "melody", "song", "piece", "air", "line", "theme", "track", "clip", "performance")
# Kinds of music that some arrangements earn: said now and then, only where the attributes bear it
GENRE = {
    (("tempo", "slow"), ("chords", "strings")): ("ballad", "lullaby", "film cue", "lament"),
    (("tempo", "fast"), ("drums", "none")): ("reel", "jig", "hornpipe", "country dance"),
    (("tempo", "fast"), ("drums", "rock")): ("rock tune", "dance track", "party song", "pop instrumental"),
    (("drums", "hand"), ("chords", "guitar")): ("folk song", "campfire song", "beach tune", "world folk"),
    (("tempo", "medium"), ("drums", "rock")): ("march", "pop song", "groove", "instrumental"),
    (("tempo", "slow"), ("drums", "none")): ("meditation", "nocturne", "slow air", "quiet interlude"),
}
OPENINGS = ("", "", "", "this is ", "a recording of ", "you hear ", "listen to ", "we get ", "here is ")
WISHES = ("", "", "", "i want ", "make me ", "please play ", "give me ", "compose ", "i would like ", "play ")
ENDINGS = ("", "", "", "", "", "", " from an old dance book", " for a short scene", " with a clean sound")


def caption(attributes: Attributes, rng: np.random.Generator, opened: bool = True) -> str:
    """One wording of the attributes, lower case, 1 to some 40 words; `opened` allows "this is ..." and the like."""
    said = {name for name, chance in SAID.items() if rng.random() < chance}
    if not said & {"lead", "tempo"}:
        said.add("lead")
    if rng.random() < 0.2:
        return _tags(attributes, said, rng)
    return (_pick(OPENINGS, rng) if opened else "") + _sentence(attributes, said, rng)


def prompt(attributes: Attributes, rng: np.random.Generator) -> str:
    """The same said as a wish, as people write prompts."""
    return _pick(WISHES, rng) + caption(attributes, rng, opened=False)


def partly_wrong(
    attributes: Attributes, rng: np.random.Generator, share: float = 0.35
) -> tuple[str, tuple[str, ...], Attributes]:
    """A caption that with probability `share` says one to three attributes wrongly.

    -> (caption, names of the attributes that were swapped, the attributes it was written from).
    """
    wrong: tuple[str, ...] = ()
    if rng.random() < share:
        count = int(rng.integers(1, 4))
        wrong = tuple(sorted(rng.choice(list(ATTRIBUTES), size=count, replace=False).tolist()))
    told = {name: other_value(name, value, rng) if name in wrong else value for name, value in attributes.items()}
    return caption(told, rng), wrong, told


def all_words() -> list[str]:
    """Every word that a caption or prompt can hold, sorted."""
    tables: tuple[Phrases, ...] = (
        LEAD,
        TEMPO_ADJECTIVE,
        TEMPO_CLAUSE,
        DRUMS_CLAUSE,
        CHORDS_CLAUSE,
        REGISTER_ADJECTIVE,
        REGISTER_CLAUSE,
        ARTICULATION_ADJECTIVE,
        ARTICULATION_CLAUSE,
    )
    phrases = [phrase for table in tables for options in table.values() for phrase in options]
    phrases += [phrase for options in GENRE.values() for phrase in options]
    phrases += [*PIECE, *OPENINGS, *WISHES, *ENDINGS, "a an and in played by"]
    return sorted({word for phrase in phrases for word in words(phrase)})


def words(text: str) -> list[str]:
    """Lower-case words; hyphens join ("mid-tempo" is one word)."""
    return re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())


def _tags(attributes: Attributes, said: set[str], rng: np.random.Generator) -> str:
    tags = []
    if "lead" in said:
        tags.append(_pick(LEAD[attributes["lead"]], rng))
    if "tempo" in said:
        tags.append(_pick(TEMPO_ADJECTIVE[attributes["tempo"]], rng))
    if "drums" in said:
        tags.append(_pick(DRUMS_CLAUSE[attributes["drums"]], rng).removeprefix("with ").removeprefix("over "))
    if "chords" in said:
        tags.append(_pick(CHORDS_CLAUSE[attributes["chords"]], rng).removeprefix("with ").removeprefix("over "))
    if "register" in said:
        tags.append(_pick(REGISTER_ADJECTIVE[attributes["register"]], rng))
    if "articulation" in said:
        tags.append(_pick(ARTICULATION_ADJECTIVE[attributes["articulation"]], rng))
    rng.shuffle(tags)
    return ", ".join(tags)


def _sentence(attributes: Attributes, said: set[str], rng: np.random.Generator) -> str:
    adjectives: list[str] = []
    clauses: list[str] = []
    places = (
        ("tempo", TEMPO_ADJECTIVE, TEMPO_CLAUSE),
        ("register", REGISTER_ADJECTIVE, REGISTER_CLAUSE),
        ("articulation", ARTICULATION_ADJECTIVE, ARTICULATION_CLAUSE),
    )
    for name, before, after in places:
        if name in said and len(adjectives) < 2 and rng.random() < 0.55:
            adjectives.append(_pick(before[attributes[name]], rng))
        elif name in said:
            clauses.append(_pick(after[attributes[name]], rng))
    clauses += [_pick(DRUMS_CLAUSE[attributes["drums"]], rng)] if "drums" in said else []
    clauses += [_pick(CHORDS_CLAUSE[attributes["chords"]], rng)] if "chords" in said else []
    rng.shuffle(adjectives)
    rng.shuffle(clauses)
    core = _core(attributes, said, adjectives, rng)
    return _join([core, *clauses], rng) + _pick(ENDINGS, rng)


def _core(attributes: Attributes, said: set[str], adjectives: list[str], rng: np.random.Generator) -> str:
    piece = _piece(attributes, said, rng)
    described = ", ".join(adjectives) if rng.random() < 0.5 else " and ".join(adjectives)
    if "lead" not in said:
        return _article(f"{described} {piece}".strip())
    lead = _pick(LEAD[attributes["lead"]], rng)
    manner = int(rng.integers(3))
    if manner == 0:
        return _article(f"{described} {lead} {piece}".strip())
    if manner == 1:
        return _article(f"{described} {piece}".strip()) + f" played by {_article(lead)}"
    return _article(f"{described} {lead}".strip()) + (f" in {_article(piece)}" if rng.random() < 0.3 else "")


def _piece(attributes: Attributes, said: set[str], rng: np.random.Generator) -> str:
    """A genre where what it implies is among what may be said; else a plain word."""
    earned = [
        names
        for marks, names in GENRE.items()
        if all(attributes[name] == value and name in said for name, value in marks)
    ]
    if earned and rng.random() < 0.35:
        return _pick(earned[int(rng.integers(len(earned)))], rng)
    return _pick(PIECE, rng)


def _join(parts: list[str], rng: np.random.Generator) -> str:
    separator = (", ", " ", ", ")[int(rng.integers(3))]
    if len(parts) > 2 and rng.random() < 0.4:
        return separator.join(parts[:-1]) + " and " + parts[-1]
    return separator.join(parts)


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
