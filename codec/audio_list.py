"""Audio files and what is said of them: a folder, or a manifest as audiocraft writes it.

    folder           every WAV, FLAC, OGG and MP3 below it; captions from `captions=FILE`, from captions.* or metadata.*
                     in the folder, else from NAME.json or NAME.txt beside NAME.wav
    *.jsonl(.gz)     one object a line: {"path", "duration", "sample_rate", ...}; relative paths start at the manifest;
                     captions from the line itself or from NAME.json beside the audio

A caption stands under description, caption, prompt or text. What cannot be used is listed with its file and never
stops the rest.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import soundfile

from cluster.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
CAPTION_KEYS = ("description", "caption", "prompt", "text")
NAME_KEYS = ("path", "file", "file_name", "filename", "name", "audio", "ytid")
CAPTION_FILES = tuple(
    f"{name}{suffix}" for name in ("captions", "metadata") for suffix in (".csv", ".json", ".jsonl", ".parquet")
)


@dataclass(frozen=True)
class AudioFile:
    """One file to use. `sample_rate_hz` and `seconds` are what a manifest claims, 0 where it says nothing."""

    path: Path
    caption: str = ""
    sample_rate_hz: int = 0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The file name without its ending: what pairs it with a file of another folder."""
        return self.path.stem


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class AudioList:
    """What a source holds, in the order of its paths or lines."""

    files: list[AudioFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def list_audio(source: str | Path, captions: str | Path = "", name: str = "data") -> AudioList:
    """The audio of a folder or manifest. `name` is the field to blame.

    Raises UserError where there is no such source, no audio in it, or the caption file cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = _of_folder(path, captions, name)
    elif path.is_file() and path.name.removesuffix(".gz").endswith(".jsonl"):
        found = _of_manifest(path, captions, name)
    else:
        what = "no such folder or file" if not path.exists() else "neither a folder nor a .jsonl manifest"
        raise UserError(f"{name}: got {str(source)!r} ({what}), allowed a folder of audio or a .jsonl manifest")
    if not found.files and not found.problems:
        raise UserError(f"{name}: got {path} without audio, allowed {', '.join(AUDIO_SUFFIXES)} files")
    return found


def audio_problem(file: AudioFile) -> str:
    """Why the header of a file cannot be used; empty where it can. Reads no samples."""
    try:
        info = soundfile.info(str(file.path))
    except (OSError, RuntimeError) as error:  # soundfile's own error is a RuntimeError
        if not file.path.is_file():
            return "no such file"
        return f"not readable as audio ({' '.join(str(error).split())[-120:].rstrip('.')})"
    if info.frames < 1:
        return "no samples"
    if file.sample_rate_hz and file.sample_rate_hz != info.samplerate:
        return f"the manifest says {file.sample_rate_hz} Hz, the file {info.samplerate} Hz"
    return ""


def read_captions(path: str | Path, name: str = "captions") -> dict[str, str]:
    """File name or stem -> caption, from CSV, JSON, JSONL or Parquet. Raises UserError.

    CSV, JSONL, Parquet: a column of CAPTION_KEYS beside one of NAME_KEYS. JSON: such a list, or {name: caption}.
    """
    file = Path(path).expanduser()
    try:
        rows = list(_rows(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{name}: got {file}, which cannot be read ({' '.join(str(error).split())[:160]})") from None
    if isinstance(rows, list) and rows and not any(_first(row, NAME_KEYS) for row in rows):
        raise UserError(f"{name}: got {file} without a column of file names, allowed {', '.join(NAME_KEYS)}")
    if rows and not any(_first(row, CAPTION_KEYS) for row in rows):
        raise UserError(f"{name}: got {file} without a column of captions, allowed {', '.join(CAPTION_KEYS)}")
    return {_first(row, NAME_KEYS): _first(row, CAPTION_KEYS) for row in rows if _first(row, NAME_KEYS)}


def _of_folder(folder: Path, captions: str | Path, name: str) -> AudioList:
    known = _folder_captions(folder, captions)
    found = AudioList()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
            _add(found, AudioFile(path, _caption_in(known, path, folder) or caption_beside(path)))
    listed = {path.stem for path in (file.path for file in found.files)} | {p.path.stem for p in found.problems}
    for missing in sorted(key for key in known if Path(key).stem not in listed and key not in listed):
        found.problems.append(Problem(folder / missing, "it has a caption but there is no such audio file"))
    return found


def _of_manifest(manifest: Path, captions: str | Path, name: str) -> AudioList:
    known = read_captions(captions) if str(captions) else {}
    found = AudioList()
    for number, line in enumerate(_manifest_lines(manifest, name), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            path = Path(entry["path"])
            rate_hz, seconds = int(entry.get("sample_rate") or 0), float(entry.get("duration") or 0.0)
        except (ValueError, KeyError, TypeError):
            found.problems.append(Problem(manifest, f"line {number} is no JSON object with a path"))
            continue
        path = path if path.is_absolute() else manifest.parent / path
        caption = _caption_in(known, path, manifest.parent) or _first(entry, CAPTION_KEYS)
        _add(found, AudioFile(path, caption or caption_beside(path, entry.get("info_path")), rate_hz, seconds))
    return found


def _add(found: AudioList, file: AudioFile) -> None:
    reason = audio_problem(file)
    if reason:
        found.problems.append(Problem(file.path, reason))
    else:
        found.files.append(file)


def caption_beside(path: Path, info_path: Any = None) -> str:
    """The caption in NAME.json, or in NAME.txt, beside NAME.wav; empty where there is none."""
    places = [path.with_suffix(".json")] + ([path.parent / str(info_path)] if isinstance(info_path, str) else [])
    for place in places:
        try:
            entry = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(entry, dict) and _first(entry, CAPTION_KEYS):
            return _first(entry, CAPTION_KEYS)
    try:
        return " ".join(path.with_suffix(".txt").read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return ""


def _folder_captions(folder: Path, captions: str | Path) -> dict[str, str]:
    if str(captions):
        return read_captions(captions)
    for candidate in CAPTION_FILES:
        if (folder / candidate).is_file():
            return read_captions(folder / candidate)
    return {}


def _caption_in(known: Mapping[str, str], path: Path, root: Path) -> str:
    relative = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    return next((known[key] for key in (relative, str(path), path.name, path.stem) if key in known), "")


def _manifest_lines(path: Path, name: str) -> list[str]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: got {path}, which cannot be read ({error})") from None


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        yield from pq.read_table(file).to_pylist()
        return
    text = file.read_text(encoding="utf-8-sig")
    if suffix == ".csv":
        yield from csv.DictReader(text.splitlines(keepends=True))
    elif suffix == ".jsonl":
        yield from (json.loads(line) for line in text.splitlines() if line.strip())
    elif suffix == ".json":
        content = json.loads(text)
        if isinstance(content, dict):
            content = [
                {**value, "path": key} if isinstance(value, dict) else {"path": key, "caption": value}
                for key, value in content.items()
            ]
        yield from content
    else:
        raise ValueError("allowed .csv, .json, .jsonl or .parquet")


def _first(row: Any, keys: tuple[str, ...]) -> str:
    """The first non-empty text under one of the keys."""
    if not isinstance(row, Mapping):
        return ""
    return next((row[key].strip() for key in keys if isinstance(row.get(key), str) and row[key].strip()), "")
