"""`python -m evaluation.main musiccaps CSV CLIPS_DIR generated=DIR|policy=DIR [key=value …]`: the MusicCaps protocol.

CSV is the published list (ytid, start_s, end_s, caption); CLIPS_DIR holds what you have of its clips, named YTID.wav,
[YTID]-[START-END].wav or the like; a file as long as the whole video is cut to its ten seconds. One clip is generated
for each caption (policy=DIR, with codec=DIR) or taken from a folder of files named in the same way (generated=DIR).
FAD, FAD-inf and KAD compare all generated clips with all real ones, KL each with the real clip of its caption, the CLAP
score each with its caption. What is missing on either side is counted, and listed in out/missing.txt.

Source: Agostinelli et al. 2023 (MusicLM, arXiv 2301.11325), section 5; Copet et al. 2023 (arXiv 2306.05284), section 4.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UserError
from cluster.storage import write_text_atomic
from codec.audio import read_audio, write_wav
from codec.audio_list import AUDIO_SUFFIXES, AudioFile, AudioList, Problem, audio_problem
from configs.command_line import exit_status_of, parse_settings
from configs.paths import existing_asset
from configs.setting import setting
from evaluation.field import FieldSettings, measure_sides, report, usage

_ID = r"[A-Za-z0-9_-]{11}"
_NAMED = re.compile(rf"^(?:\[({_ID})\]|({_ID})(?![A-Za-z0-9]))")


@dataclass(frozen=True)
class MusicCapsSettings(FieldSettings):
    generated: str = setting("", "folder of clips generated before, named by their YTID")
    policy: str = setting("", "folder of the policy that generates one clip a caption")
    codec: str = setting("assets/tiny/codec", "folder of the policy's codec")
    n: int = setting(0, "captions, from the top of the list; 0: all", at_least=0)
    length_s: float = setting(10.0, "of a generated clip, at most what the policy can play", above=0, at_most=120)
    temperature: float = setting(0.99, "of the sampled distribution", above=0, at_most=10)
    guidance_scale: float = setting(1.0, "classifier-free guidance; 1: off", at_least=0, at_most=20)
    batch_size: int = setting(16, "clips sampled at once", at_least=1)
    seed: int = setting(0, "of the sampled clips", at_least=0)
    out: str = setting("musiccaps", "folder for the result, the list of what is missing and generated clips")


@dataclass(frozen=True)
class Entry:
    """One row of the list."""

    ytid: str
    start_s: float
    end_s: float
    caption: str


def main(argv: Sequence[str]) -> int:
    """-> exit status: 0, 2 with one line for input that cannot be used, 130 when interrupted."""
    if len(argv) < 2 or argv[0] in ("-h", "--help", "help"):
        print(usage(__doc__ or "", MusicCapsSettings))
        return 0 if argv and argv[0] in ("-h", "--help", "help") else 2
    table, clips, *words = argv
    said = "interrupted: the same command goes on"
    return exit_status_of(lambda: run_protocol(table, clips, parse_settings(words, MusicCapsSettings())), said)


def run_protocol(table: str, clips: str, settings: MusicCapsSettings) -> None:
    """The whole protocol. Raises UserError."""
    if bool(settings.generated) == bool(settings.policy):
        raise UserError("generated: give either generated=DIR (clips made before) or policy=DIR (made now)")
    entries = read_entries(table)
    entries = entries[: settings.n] if settings.n else entries
    out = Path(settings.out)
    real = clips_of(entries, clips, "CLIPS_DIR", out / "cut")
    if not real.files:
        raise UserError(f"CLIPS_DIR: got {clips} with none of the {len(entries)} clips, allowed files named by YTID")
    if settings.policy:
        generate(entries, out / "generated", settings)
    ours = clips_of(entries, settings.generated or out / "generated", "generated", out / "cut_generated")
    missing = [*_lines("real", real.problems), *_lines("generated", ours.problems)]
    write_text_atomic(out / "missing.txt", "".join(line + "\n" for line in missing))
    print(f"{len(entries)} captions; {len(real.files)} real clips, {len(ours.files)} generated; {out / 'missing.txt'}")
    found = {
        "captions": len(entries),
        "missing_real": len(entries) - len(real.files),
        "missing_generated": len(entries) - len(ours.files),
    }
    # What is missing is told once, by missing.txt; the report repeats no thousands of lines
    sides = (AudioList(real.files), AudioList(ours.files))
    report(measure_sides(*sides, settings, found), settings)


def read_entries(path: str | Path) -> list[Entry]:
    """The published CSV. Raises UserError naming the line."""
    try:
        rows = list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines(keepends=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"CSV: got {path}, which cannot be read ({error})") from None
    lacking = [key for key in ("ytid", "start_s", "end_s", "caption") if not rows or key not in rows[0]]
    if lacking:
        raise UserError(f"CSV: got {path} without the column {lacking[0]}, allowed ytid, start_s, end_s, caption")
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            found.append(Entry(row["ytid"].strip(), float(row["start_s"]), float(row["end_s"]), row["caption"].strip()))
        except (ValueError, AttributeError, TypeError):
            raise UserError(f"CSV: got {path}, line {number}: no ytid, start_s, end_s and caption") from None
    return found


def clips_of(entries: Sequence[Entry], folder: str | Path, name: str, cut_dir: Path) -> AudioList:
    """The clip of each entry, named by its ytid; a file that holds more than the clip is cut, into `cut_dir`.

    What is missing or broken is in `problems`. Raises UserError where there is no such folder.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{name}: got {str(folder)!r}, allowed a folder of audio files")
    places: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        ytid = ytid_of(path)
        if ytid and path.suffix.lower() in AUDIO_SUFFIXES:
            places.setdefault(ytid, path)
    found = AudioList()
    for entry in entries:
        path = places.get(entry.ytid, root / f"{entry.ytid}.wav")
        reason = audio_problem(AudioFile(path)) if entry.ytid in places else "missing"
        if not reason:
            try:
                path = _cut(path, entry, cut_dir)
            except UserError as error:
                reason = str(error)
        if reason:
            found.problems.append(Problem(path, reason))
        else:
            found.files.append(AudioFile(path, entry.caption))
    return found


def ytid_of(path: Path) -> str:
    """The video's id at the beginning of a file's name, in brackets or bare; empty where there is none."""
    match = _NAMED.match(path.stem)
    return (match[1] or match[2]) if match else ""


def generate(entries: Sequence[Entry], folder: Path, settings: MusicCapsSettings) -> None:
    """One clip a caption as YTID.wav; those that are there stay, so a stopped command goes on."""
    import torch

    from codec.checkpoint import load_codec
    from evaluation.evaluate import clip_seed, longest_clip_s, sample_clips
    from policy.checkpoint import load_policy
    from policy.port import SamplingSettings
    from policy.samplers import sampler_of

    left = [(row, entry) for row, entry in enumerate(entries) if not (folder / f"{entry.ytid}.wav").is_file()]
    if not left:
        return
    torch.set_num_threads(settings.threads)
    policy, codec = load_policy(existing_asset(settings.policy)), load_codec(existing_asset(settings.codec))
    most_s = longest_clip_s(policy)
    if settings.length_s > most_s:
        raise UserError(f"length_s: got {settings.length_s:g}, allowed at most {most_s:g}, the policy's longest clip")
    sampler, sampling = sampler_of(policy), SamplingSettings(settings.temperature, settings.guidance_scale)
    for start in range(0, len(left), settings.batch_size):
        part = left[start : start + settings.batch_size]
        work = [(row, entry.caption, clip_seed(settings.seed, row)) for row, entry in part]
        clips = sample_clips(policy, sampler, codec, work, settings.length_s, sampling)
        for (_, entry), pcm in zip(part, clips.pcm, strict=True):
            write_wav(folder / f"{entry.ytid}.wav", pcm, clips.sample_rate_hz)
        print(f"generated: {start + len(part)} of {len(left)} clips", flush=True)


def _cut(path: Path, entry: Entry, cut_dir: Path) -> Path:
    """The clip itself: a file that reaches the clip's end within the video holds the video; any other is the clip."""
    import soundfile

    info = soundfile.info(str(path))
    length_s = info.frames / info.samplerate
    if length_s <= entry.end_s - entry.start_s + 1.0 or length_s < entry.end_s:
        return path
    target = cut_dir / f"{entry.ytid}.wav"
    if not target.is_file():
        pcm, rate_hz = read_audio(path)
        write_wav(target, pcm[:, round(entry.start_s * rate_hz) : round(entry.end_s * rate_hz)], rate_hz)
    return target


def _lines(side: str, problems: Sequence[Problem]) -> list[str]:
    return [f"{side} {problem}" for problem in problems]
