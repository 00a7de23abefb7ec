"""A dashboard as a picture: what Prometheus answers is in the table, and what is in the table is drawn."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.csv
import pytest
from matplotlib import image

from cluster.monitoring.dashboards import TRAINING
from cluster.monitoring.picture import main, panels_of

REWARD, NAMED = "Reward", "Reward by name, raw"


class SimulatedPrometheus(ThreadingHTTPServer):
    """Two series for every range query that has a word of `known`, none for others; remembers what it was asked."""

    def __init__(self, *known: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.known, self.asked = known, list[dict[str, str]]()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, SimulatedPrometheus)
        parsed = urllib.parse.urlparse(self.path)
        asked = dict(urllib.parse.parse_qsl(parsed.query)) | {"path": parsed.path}
        self.server.asked.append(asked)
        moments = [float(asked["start"]) + 60 * minute for minute in (10, 11, 12)]
        metrics = [{"run": "a", "name": "quality"}, {"run": "b", "name": "adherence"}]
        known = any(word in asked["query"] for word in self.server.known)
        series = [
            {"metric": metric, "values": [[at, str(scale * at)] for at in moments]}
            for scale, metric in enumerate(metrics, start=1)
        ]
        body = json.dumps({"data": {"result": series if known else []}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def prometheus() -> Iterator[SimulatedPrometheus]:
    with SimulatedPrometheus("musicrl_reward{", "musicrl_reward_", "musicrl_kl_clip{") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_panels_with_data_are_tabled_and_drawn(prometheus: SimulatedPrometheus, tmp_path: Path) -> None:
    out = tmp_path / "training.png"
    assert main([f"prometheus={prometheus.url}", f"out={out}", "run=a.b", "minutes=30"]) == 0
    table = pyarrow.csv.read_csv(out.with_suffix(".csv"))
    assert set(table["panel"].to_pylist()) == {
        REWARD,
        NAMED,
        "Spread of the reward",
        "Reward against KL",
        "KL of a clip",
    }
    named = table.filter(pc.equal(table["panel"], NAMED))
    assert set(named["series"].to_pylist()) == {"quality a", "adherence b"}
    assert named["minute"].to_pylist()[:3] == pytest.approx([10, 11, 12])
    assert image.imread(out).std() > 0.05  # not an empty sheet
    ranges = [asked for asked in prometheus.asked if "musicrl_reward{" in asked["query"]]
    assert all(asked["path"] == "/api/v1/query_range" and r'run=~"a\\.b"' in asked["query"] for asked in ranges)
    assert float(ranges[0]["end"]) - float(ranges[0]["start"]) == pytest.approx(1800, abs=0.01)


def test_panels_are_chosen_in_the_order_asked_for() -> None:
    assert [panel.title for panel in panels_of(TRAINING, "Learning rate, Reward")] == ["Learning rate", "Reward"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["board=trainings"], "board"),
        (["board=training,pipeline"], "board: got 'training,pipeline', allowed one of them"),
        (["panels=Rewards"], "panels: got 'Rewards', allowed Reward, "),
        (["panels=Learning rate", "run=other"], "run: got 'other', of which Prometheus has nothing"),
        (["prometheus=http://127.0.0.1:9"], "prometheus: got 'http://127.0.0.1:9'"),
    ],
)
def test_bad_input_is_one_line(
    prometheus: SimulatedPrometheus, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = [] if words[0].startswith("prometheus") else [f"prometheus={prometheus.url}"]
    status = main([*server, f"out={tmp_path / 'x.png'}", *words])
    error = capsys.readouterr().err
    assert status == 2 and said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
