"""Rules for Kubernetes files: KubeRay's own schema, then what this project needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from cluster.launch.constraints import ray_version
from cluster.launch.documents import Document, Finding, schema_findings
from cluster.launch.pods import pod_findings
from cluster.launch.rules import (
    first,
    group_findings,
    idle_findings,
    literal_token_findings,
    range_findings,
    world_findings,
)
from cluster.placement import most_of
from configs.command_line import nearest
from configs.errors import UserError
from configs.load import load_config

SCHEMA = Path(__file__).with_name("kuberay.schema.json")
CLUSTER_FIELD = {"RayCluster": "spec", "RayJob": "spec.rayClusterSpec", "RayService": "spec.rayClusterConfig"}
PLAIN_KINDS = ("Namespace", "PersistentVolumeClaim", "NetworkPolicy", "PodMonitor", "PrometheusRule", "Secret")
CLOSED_SERVICES = (None, "ClusterIP")
LONGEST_IDLE_S = 7200
RUN = "learner.main"


def findings(document: Document) -> list[Finding]:
    """Everything wrong with one document."""
    kind = document.get("kind")
    if kind not in CLUSTER_FIELD:
        return first(_plain(document))
    by_schema = list(schema_findings(_validator(str(kind)), document))
    if by_schema:  # what follows relies on the shapes
        return by_schema
    return first(_ray(document))


def _validator(kind: str) -> Draft202012Validator:
    schema: dict[str, Any] = json.loads(SCHEMA.read_text())
    return Draft202012Validator({**schema, "$ref": f"#/$defs/{kind}"})


def _plain(document: Document) -> Iterator[Finding]:
    """Documents that are none of Ray's."""
    kind = document.get("kind")
    if kind not in PLAIN_KINDS:
        known = (*CLUSTER_FIELD, *PLAIN_KINDS)
        yield Finding("kind", f"got {kind!r}{nearest(str(kind), known)}; allowed {', '.join(known)}")
    yield from world_findings(document)
    if kind == "Secret" and (document.get("data") or document.get("stringData")):
        yield Finding("data", "got a secret in a file, allowed: kubectl create secret …")
    if kind == "NetworkPolicy":
        for index, rule in enumerate((document.get("spec") or {}).get("ingress") or []):
            if not rule.get("from"):
                yield Finding(f"spec.ingress[{index}].from", "got nothing, open to all; allowed the pods that may call")


def _ray(document: Document) -> Iterator[Finding]:
    kind, field = document["kind"], CLUSTER_FIELD[document["kind"]]
    spec: Document = document
    for part in field.split("."):
        spec = spec.get(part) or {}
    if not spec:
        yield Finding(field, "got nothing, allowed the cluster: it is required")
        return
    yield from world_findings(document)
    yield from literal_token_findings(document)
    yield from _cluster(field, spec, needs_groups=kind != "RayService")
    if kind == "RayJob":
        yield from _job(document["spec"], spec)
    if kind == "RayService":
        yield from _service(document["spec"])


def _cluster(field: str, spec: Document, needs_groups: bool) -> Iterator[Finding]:
    if spec.get("rayVersion") != ray_version():
        got = spec.get("rayVersion")
        yield Finding(
            f"{field}.rayVersion", f"got {got!r}, allowed {ray_version()!r}, as in cluster/launch/constraints.txt"
        )
    if (spec.get("authOptions") or {}).get("mode") != "token":
        yield Finding(f"{field}.authOptions.mode", "got no token authentication, allowed token")
    if spec.get("enableInTreeAutoscaling") is not True:
        yield Finding(f"{field}.enableInTreeAutoscaling", "got no autoscaler, allowed true: groups would not grow")
    idle = (spec.get("autoscalerOptions") or {}).get("idleTimeoutSeconds")
    yield from idle_findings(f"{field}.autoscalerOptions.idleTimeoutSeconds", idle, LONGEST_IDLE_S, "seconds")
    yield from _head(f"{field}.headGroupSpec", spec["headGroupSpec"])
    groups = {group["groupName"]: group for group in spec.get("workerGroupSpecs") or []}
    if needs_groups:
        yield from group_findings(
            f"{field}.workerGroupSpecs",
            {name: _offered(group) for name, group in groups.items()},
            "rayStartParams.resources",
        )
    for name, group in groups.items():
        yield from _group(f"{field}.workerGroupSpecs.{name}", group)


def _head(field: str, head: Document) -> Iterator[Finding]:
    if head.get("serviceType") not in CLOSED_SERVICES or head.get("enableIngress"):
        yield Finding(
            f"{field}.serviceType", f"got {head.get('serviceType')} or an ingress, allowed ClusterIP: Ray stays inside"
        )
    if str((head.get("rayStartParams") or {}).get("num-cpus")) != "0":
        yield Finding(f"{field}.rayStartParams.num-cpus", 'got CPUs on the head, allowed "0": no role goes there')
    yield from pod_findings(f"{field}.template.spec", head["template"]["spec"], keeps=True)


def _group(field: str, group: Document) -> Iterator[Finding]:
    least, most, now = (group.get(name) for name in ("minReplicas", "maxReplicas", "replicas"))
    yield from range_findings(field, least, most, ("minReplicas", "maxReplicas"))
    yield from range_findings(field, now, most, ("replicas", "maxReplicas"))
    offered = _offered(group)
    if "learner" in offered and not least:
        yield Finding(f"{field}.minReplicas", "got 0, allowed 1: the driver of a run starts there")
    yield from pod_findings(f"{field}.template.spec", group["template"]["spec"], keeps="learner" in offered)


def _offered(group: Document) -> dict[str, float]:
    """Custom resources of a group; KubeRay wants them as JSON inside quotes."""
    text = (group.get("rayStartParams") or {}).get("resources", "{}")
    try:
        offered: dict[str, float] = json.loads(text.strip("'\"").replace('\\"', '"'))
    except json.JSONDecodeError:
        return {f"unreadable {text}": 1}
    return offered


def _job(job: Document, cluster: Document) -> Iterator[Finding]:
    if not job.get("shutdownAfterJobFinishes"):
        yield Finding("spec.shutdownAfterJobFinishes", "got nothing, allowed true: a cluster whose run is over costs")
    try:
        asked = json.loads(job.get("entrypointResources") or "{}")
    except json.JSONDecodeError:
        asked = {}
    if "learner" not in asked:
        yield Finding(
            "spec.entrypointResources",
            "got no learner, allowed '{\"learner\": 0.001}': the driver runs where the run folder is",
        )
    words = job.get("entrypoint", "").split()
    if RUN not in words:
        return
    try:
        config = load_config(words[words.index(RUN) + 1 :])
    except UserError as error:
        yield Finding("spec.entrypoint", f"refused by {RUN}: {error}")
        return
    yield from _fits(config, {group["groupName"]: group for group in cluster.get("workerGroupSpecs") or []})


def _fits(config: Any, groups: dict[str, Document]) -> Iterator[Finding]:
    """The actors of the run fit their groups at full size."""
    actors = config.actors
    for role, (setting, count), cpus in (
        ("learner", ("learner.cpus", 1), config.learner.cpus),
        ("generator", most_of(config, "generators"), actors.generator_cpus),
        ("scorer", most_of(config, "scorers"), actors.scorer_cpus),
    ):
        places = sum(
            group.get("maxReplicas", 1) * (int(_cpus(group)) // cpus)
            for group in groups.values()
            if role in _offered(group)
        )
        if count > places:
            yield Finding(
                "spec.entrypoint",
                f"{setting}: got {count} x {cpus} CPUs, allowed {places}, what the {role} group holds",
            )


def _cpus(group: Document) -> float:
    text = str(group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("cpu", "0"))
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _service(service: Document) -> Iterator[Finding]:
    if (service.get("serveService") or {}).get("spec", {}).get("type") not in CLOSED_SERVICES:
        yield Finding(
            "spec.serveService.spec.type", "got a public service, allowed ClusterIP behind an ingress with TLS"
        )
    try:
        serve = yaml.safe_load(service.get("serveConfigV2", ""))
        applications = serve["applications"]
        names = [application["import_path"] for application in applications]
    except (yaml.YAMLError, KeyError, TypeError):
        yield Finding("spec.serveConfigV2", "got no applications with import_path, allowed Serve's own format")
        return
    for name in names:
        if ":" not in name:
            yield Finding("spec.serveConfigV2.applications.import_path", f"got {name!r}, allowed MODULE:NAME")
