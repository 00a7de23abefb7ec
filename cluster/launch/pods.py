"""Rules for the pods of a Ray cluster on Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.launch.documents import Document, Finding, leaves
from cluster.launch.rules import image_findings


def pod_findings(field: str, pod: Document, keeps: bool) -> Iterator[Finding]:
    """keeps: the pod holds what a run cannot lose (the head, the learner), and must not be pre-emptible."""
    if pod.get("hostNetwork"):
        yield Finding(f"{field}.hostNetwork", "got true, which opens every port on the machine; allowed nothing")
    if (pod.get("securityContext") or {}).get("runAsNonRoot") is not True:
        yield Finding(f"{field}.securityContext.runAsNonRoot", "got nothing, allowed true")
    if pod.get("shareProcessNamespace") is not True:
        yield Finding(
            f"{field}.shareProcessNamespace", "got nothing, allowed true: somebody has to reap ended processes"
        )
    if keeps and _asks_for_spot(pod):
        yield Finding(field, "got a spot machine, allowed none here: a run cannot lose it")
    volumes = {volume["name"] for volume in pod.get("volumes") or []}
    for container in pod["containers"]:
        yield from _container(f"{field}.containers.{container['name']}", container, volumes)


def _container(field: str, container: Document, volumes: set[str]) -> Iterator[Finding]:
    yield from image_findings(f"{field}.image", container.get("image") or "")
    limits = (container.get("resources") or {}).get("limits") or {}
    for name in ("cpu", "memory"):
        if name not in limits:
            yield Finding(
                f"{field}.resources.limits.{name}", "got nothing, allowed a limit: Ray takes it as the size of the node"
            )
    for port in container.get("ports") or []:
        if "hostPort" in port:
            yield Finding(
                f"{field}.ports.{port.get('name')}.hostPort",
                f"got {port['hostPort']}, open on the machine; allowed none",
            )
    for mount in container.get("volumeMounts") or []:
        if mount["name"] not in volumes:
            yield Finding(
                f"{field}.volumeMounts", f"got {mount['name']!r}, allowed a volume of the pod: {', '.join(volumes)}"
            )
    for variable in container.get("env") or []:
        if variable["name"].endswith(("TOKEN", "PASSWORD", "KEY")) and "value" in variable:
            yield Finding(f"{field}.env.{variable['name']}", "got a secret in the file, allowed valueFrom a Secret")


def _asks_for_spot(pod: Document) -> bool:
    wanted = [(pod.get("nodeSelector") or {}), (pod.get("affinity") or {})]
    return any("spot" in f"{path} {value}".lower() for part in wanted for path, value in leaves(part))
