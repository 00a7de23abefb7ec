"""`python -m rewards.environment MODEL DIR`: makes the environment that a reward model of the field runs in.

A virtual environment of this Python that sees everything that is installed here, with the model's own packages before
it: what they need in other versions is found there first, and nothing here changes. Packages come from pip as it is
configured. Then: rewards.NAME.model=MODEL rewards.NAME.environment=DIR rewards.NAME.checkpoint=…
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import RunFailed, UserError
from configs.command_line import exit_status_of, nearest
from rewards.extra.catalogue import EXTRAS, Extra

CORE = "core.pth"
PIP_S = 1800


def main(argv: Sequence[str]) -> int:
    """-> exit status: 0 made, 1 pip failed, 2 with one line for input that cannot be used."""
    if len(argv) != 2 or argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        rows = [f"    {extra.model:<12}{extra.title}; {extra.licence}" for extra in EXTRAS.values()]
        print("\n".join(["MODEL is one of", *rows]))
        return 0 if argv and argv[0] in ("-h", "--help", "help") else 2
    return exit_status_of(lambda: _make(argv[0], argv[1]))


def _make(model: str, directory: str) -> None:
    if model not in EXTRAS:
        raise UserError(f"MODEL: got {model!r}, allowed {', '.join(EXTRAS)}{nearest(model, EXTRAS)}")
    folder = Path(directory).expanduser()
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise UserError(f"DIR: got {folder}, which is there and no environment, allowed a new folder")
    make_environment(EXTRAS[model], folder)
    print(f"made: {folder.absolute()} for {EXTRAS[model].title}. Licence: {EXTRAS[model].licence}")


def make_environment(extra: Extra, folder: Path) -> Path:
    """-> its Python. Raises RunFailed with pip's last line."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # addsitedir: also what is installed here in editable mode is seen; own packages come before it
    (own / CORE).write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n", encoding="utf-8")
    python = folder / "bin" / "python"
    for packages, options in ((extra.packages, ["--no-deps"]), (_lacking(python, extra.complete), [])):
        if packages:
            _pip([*options, "--target", str(own), "--upgrade", *packages])
    return python


def _lacking(python: Path, requirements: Sequence[str]) -> list[str]:
    """Those that the environment does not see yet in a version that fits."""
    program = (
        "import sys\n"
        "from importlib.metadata import version, PackageNotFoundError\n"
        "from packaging.requirements import Requirement\n"
        "for text in sys.argv[1:]:\n"
        "    wanted = Requirement(text)\n"
        "    try: found = version(wanted.name) in wanted.specifier\n"
        "    except PackageNotFoundError: found = False\n"
        "    print('' if found else text)\n"
    )
    done = subprocess.run(
        [str(python), "-c", program, *requirements], capture_output=True, text=True, timeout=60, check=True
    )
    return [line for line in done.stdout.splitlines() if line]


def _pip(words: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_S)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"pip: not finished within {PIP_S} s: {' '.join(words)}") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise RunFailed(f"pip: {(errors or ['failed'])[-1]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
