"""All benchmarks, one after the other, each in a process of its own: `make bench`.

    python -m benchmarks [only=sampler,replay] [out=build/benchmarks]

Each prints markdown tables with the machine's load; what they printed is also kept in `out`/NAME.md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "sampler",
    "musicgen_sampler",
    "learner_step",
    "musicgen_step",
    "musicgen_batches",
    "replay",
    "weight_bus",
    "scaling",
    "modes",
)


def main(arguments: list[str]) -> int:
    """-> exit status: that of the last benchmark that failed, or 0."""
    settings = dict(argument.partition("=")[::2] for argument in arguments)
    names = settings.get("only", ",".join(BENCHMARKS)).split(",")
    if unknown := sorted(set(names) - set(BENCHMARKS)) + sorted(settings.keys() - {"only", "out"}):
        print(f"error: {unknown[0]}: unknown, allowed only={','.join(BENCHMARKS)} and out=DIR", file=sys.stderr)
        return 2
    folder = Path(settings.get("out", "build/benchmarks"))
    folder.mkdir(parents=True, exist_ok=True)
    status = 0
    for name in names:
        print(f"\n# {name}\n", flush=True)
        run = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True)
        print(run.stdout, flush=True)
        (folder / f"{name}.md").write_text(run.stdout)
        status = run.returncode or status
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
