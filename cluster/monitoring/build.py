"""`python -m cluster.monitoring.build`: writes the dashboards and the rule files. Nothing in them is edited by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.monitoring.dashboards import DASHBOARDS
from cluster.monitoring.rules import rule_file, rule_resource
from configs.command_line import exit_status_of
from configs.errors import UserError

FOLDER = Path(__file__).parent


def made_files() -> dict[Path, str]:
    """Every file that is made from code, with its content. Raises UserError where Grafana's builders are missing."""
    try:
        from cluster.monitoring.dashboards.grafana import dashboard_json
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name}: not installed, allowed after: pip install '.[dev]'") from None
    files = {FOLDER / "grafana" / "dashboards" / f"{board.uid}.json": dashboard_json(board) for board in DASHBOARDS}
    files[FOLDER / "prometheus" / "rules.yml"] = rule_file()
    files[FOLDER / "kubernetes" / "rules.yaml"] = rule_resource()
    return files


def _write() -> None:
    for path, text in made_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(FOLDER.parent.parent))


if __name__ == "__main__":
    sys.exit(exit_status_of(_write))
