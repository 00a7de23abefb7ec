"""Are the machines well? Ray's own metrics, and what a run says of its memory and its disk."""

from __future__ import annotations

from cluster.monitoring.dashboards.board import INSTANCE, OF_ROLE, ROLE, RUN, Dashboard, Panel, Query, Row, of_catalogue
from cluster.monitoring.series import family

NODE = 'instance=~"$instance"'
PROCESS = f'{NODE},Component=~"ray::.+"'


def _nodes(title: str, expr: str, unit: str, about: str, **more: object) -> Panel:
    return Panel(title, (Query(expr, "{{instance}}"),), unit, about, least=0, **more)  # type: ignore[arg-type]


FLEET = Dashboard(
    "musicrl-fleet",
    "MusicRL / Fleet",
    "Nodes, restarts, GPUs, memory and disks.",
    (INSTANCE, RUN, ROLE),
    (
        Row(
            "Nodes",
            (
                Panel("Nodes", (Query("count(ray_node_cpu_count)", "nodes"),), kind="number", width=4),
                Panel("CPUs", (Query("sum(ray_node_cpu_count)", "CPUs"),), kind="number", width=4),
                of_catalogue("Actors by role", "actors_ROLE", width=8, least=0),
                of_catalogue("Wanted, by role", "wanted_ROLE", least=0),
                of_catalogue("Pending, by role", "pending_ROLE", least=0),
                of_catalogue("Waiting for nodes", "nodes_wait", "nodes_wait_bound", least=0),
                of_catalogue("Calls handed back, by role", "handed_back_ROLE", least=0),
                of_catalogue("Late answers refused, by role", "late_ROLE", least=0),
                Panel(
                    "Restarts in an hour",
                    (
                        Query(
                            f"max by (run, role) (increase({family('restarts_ROLE', OF_ROLE)}[1h]))", "{{role}} {{run}}"
                        ),
                    ),
                    about="Actors that were replaced, by role.",
                    least=0,
                ),
                _nodes("CPU", f"ray_node_cpu_utilization{{{NODE}}}", "percent", "In use, of all cores.", most=100),
                _nodes(
                    "Memory",
                    f"ray_node_mem_used{{{NODE}}} / ray_node_mem_total{{{NODE}}}",
                    "percentunit",
                    "In use. Ray kills workers from 95 % on.",
                    most=1,
                ),
                _nodes(
                    "Disk",
                    f"ray_node_disk_usage{{{NODE}}} / (ray_node_disk_usage{{{NODE}}} + ray_node_disk_free{{{NODE}}})",
                    "percentunit",
                    "In use. At 95 % Ray refuses objects.",
                    most=1,
                ),
                _nodes("Network, received", f"ray_node_network_receive_speed{{{NODE}}}", "Bps", "Bytes a second."),
                _nodes("Network, sent", f"ray_node_network_send_speed{{{NODE}}}", "Bps", "Bytes a second."),
            ),
        ),
        Row(
            "Ray",
            (
                Panel(
                    "Actors by state",
                    (Query('sum by (State) (ray_actors{State!="DEAD"})', "{{State}}"),),
                    about="Of the whole cluster; PENDING ones wait for room.",
                    least=0,
                ),
                _nodes(
                    "Object store",
                    f"ray_object_store_used_memory{{{NODE}}}",
                    "bytes",
                    "Clips and rows on their way, and published weights.",
                ),
                Panel(
                    "CPU by process",
                    (Query(f"sum by (Component) (ray_component_cpu_percentage{{{PROCESS}}})", "{{Component}}"),),
                    "percent",
                    "100 is one core.",
                    least=0,
                ),
                Panel(
                    "Memory by process",
                    (Query(f"sum by (Component) (ray_component_rss_bytes{{{PROCESS}}})", "{{Component}}"),),
                    "bytes",
                    "Resident memory.",
                    least=0,
                ),
                of_catalogue("Memory of the run", "memory_bytes", least=0, needs="own cluster"),
                of_catalogue("Free disk of the run folder", "disk_free_bytes", least=0),
            ),
        ),
        Row(
            "Object storage, of runs on s3://",
            (
                of_catalogue("Storage takes no write", "storage_waiting", least=0, needs="object storage"),
                of_catalogue("Not uploaded yet", "storage_pending_bytes", least=0, needs="object storage"),
                of_catalogue("Uploaded", "storage_uploaded_bytes", least=0, needs="object storage"),
            ),
        ),
        Row(
            "GPUs",
            (
                _nodes("GPU", f"ray_node_gpus_utilization{{{NODE}}}", "percent", "In use, by GPU.", needs="gpu"),
                _nodes("GPU memory", f"ray_node_gram_used{{{NODE}}} * 1e6", "bytes", "In use, by GPU.", needs="gpu"),
            ),
        ),
    ),
)
