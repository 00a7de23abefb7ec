"""A MusicGen from one directory to another, in the layout and precision that its next user asks for.

    python -m policy.musicgen policy=RUN/checkpoints/step_300/policy out=DIR layout=audiocraft [dtype=float16]

layout: transformers (for `MusicgenForConditionalGeneration.from_pretrained`) or audiocraft (for
`MusicGen.get_pretrained`); dtype: float32, float16 or bfloat16, of the language model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.errors import UserError
from cluster.working_copy import local_copy
from codec.musicgen_folder import AUDIOCRAFT, LICENCE, TRANSFORMERS, is_musicgen_folder
from configs.command_line import exit_status_of, parse_settings
from policy.musicgen.audiocraft import save_audiocraft
from policy.musicgen.save import save_musicgen
from policy.musicgen.weights import load_musicgen

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ExportSettings:
    """What `main` reads."""

    policy: str = ""
    out: str = ""
    layout: str = TRANSFORMERS
    dtype: str = "float32"


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in words):
        print(__doc__)
        return 0
    return exit_status_of(lambda: export(parse_settings(words, ExportSettings())))


def export(settings: ExportSettings) -> None:
    """Raises UserError for settings that cannot be used; a directory that is there already is left alone."""
    folder = local_copy(settings.policy, "policy") if settings.policy else Path()
    if not settings.policy or not is_musicgen_folder(folder):
        raise UserError(f"policy: got {settings.policy!r}, allowed a directory with a MusicGen checkpoint")
    if settings.layout not in (TRANSFORMERS, AUDIOCRAFT):
        raise UserError(f"layout: got {settings.layout!r}, allowed {TRANSFORMERS}, {AUDIOCRAFT}")
    if settings.dtype not in DTYPES:
        raise UserError(f"dtype: got {settings.dtype!r}, allowed {', '.join(DTYPES)}")
    if not settings.out or (Path(settings.out).exists() and any(Path(settings.out).iterdir())):
        raise UserError(f"out: got {settings.out!r}, allowed a new directory")
    write = save_audiocraft if settings.layout == AUDIOCRAFT else save_musicgen
    write(load_musicgen(folder, "policy"), settings.out, DTYPES[settings.dtype])
    print(f"{settings.layout} layout, {settings.dtype}: {settings.out}; {LICENCE}")


if __name__ == "__main__":
    sys.exit(main())
