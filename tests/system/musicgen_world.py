"""The tiny world's prompts and rewards around a MusicGen with random weights."""

from __future__ import annotations

from pathlib import Path

from policy.musicgen.random_checkpoint import RandomShapes, write_random
from tests.system.tiny_world import STEP_LIMIT_S, TinyWorld, build_tiny_world

STEPS = 6


class MusicGenWorld(TinyWorld):
    """The MusicGen's directory is all that names policy and codec."""

    def arguments(self, run_dir: Path | str, **settings: object) -> list[str]:
        chosen: dict[str, object] = {"sampling__guidance_scale": 3, "sampling__group_size": 2, "learner__steps": STEPS}
        words = super().arguments(run_dir, **chosen | {"guard__diversity_prompts": 0} | settings)
        kept = [word for word in words if not word.startswith(("policy.checkpoint=", "codec.checkpoint="))]
        return [*kept, f"policy.checkpoint={self.folder / 'musicgen'}", "rewards.low_tokens.options={entries: 64}"]


def build_musicgen_world(
    folder: Path, shapes: RandomShapes | None = None, limit_s: float = STEP_LIMIT_S
) -> MusicGenWorld:
    build_tiny_world(folder)
    write_random(folder / "musicgen", shapes)
    return MusicGenWorld(folder, limit_s)
