"""`python -m cluster.launch.check [path=FILE]`: launch files checked without a cloud, a cluster or a network.

Without a path: every launch file of the project, where FILL_IN stands for what only its user can know. With one: your
own copy, in which nothing may be left to fill in. One line for each mistake; exit status 2 if there is any.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.launch import kubernetes_rules, ray_up
from cluster.launch.container import constraints_findings, container_findings
from cluster.launch.documents import Finding, read_documents, unfilled
from configs.command_line import exit_status_of, parse_settings
from configs.errors import UserError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Settings:
    path: str = ""  # empty: every launch file of the project


def shipped_files() -> list[Path]:
    """The project's launch files, its container file and its constraints."""
    yamls = [*sorted(FOLDER.glob("*.yaml")), *sorted((FOLDER / "kubernetes").glob("*.yaml"))]
    return [*yamls, FOLDER / "Dockerfile", FOLDER / "constraints.txt"]


def check_file(path: Path, filled: bool) -> list[Finding]:
    """Everything wrong with a file; filled: nothing may be left to fill in. Raises UserError where it is unreadable."""
    if path.name.startswith("Dockerfile"):
        return container_findings(path.read_text())
    if path.suffix == ".txt":
        return constraints_findings(path)
    found: list[Finding] = []
    for document in read_documents(path):
        found += ray_up.findings(document) if "provider" in document else kubernetes_rules.findings(document)
        found += unfilled(document) if filled else []
    return found


def run_and_cluster_agree() -> list[Finding]:
    """The cluster of ray-job.yaml is that of ray-cluster.yaml."""
    cluster, job = (read_documents(FOLDER / "kubernetes" / f"ray-{name}.yaml")[0] for name in ("cluster", "job"))
    same = cluster["spec"] == job["spec"].get("rayClusterSpec")
    return [] if same else [Finding("spec.rayClusterSpec", "differs from ray-cluster.yaml, allowed the same")]


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status_of(lambda: _check(parse_settings(words, Settings())))


def _check(settings: Settings) -> int:
    mistakes = 0
    for path in [Path(settings.path)] if settings.path else shipped_files():
        try:
            found = check_file(path, filled=bool(settings.path))
            if path == FOLDER / "kubernetes" / "ray-job.yaml":
                found += run_and_cluster_agree()
            lines = [f"{path.name}: {finding}" for finding in found]
        except UserError as error:
            lines = [str(error)]
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
        if not lines:
            print(f"ok     {path.name}")
        mistakes += len(lines)
    return 2 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
