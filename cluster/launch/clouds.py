"""Rules for `node_config`, the part of a cluster-launcher file that goes to the cloud as it stands."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import botocore.session
from botocore.model import ServiceModel, Shape, StructureShape

from cluster.launch.documents import Document, Finding
from configs.command_line import nearest

# Compute Engine's instances.insert: fields of a node. Its description does not come with any installed package.
GCP_FIELDS = (
    "machineType", "disks", "networkInterfaces", "scheduling", "serviceAccounts", "labels", "metadata", "tags",
    "minCpuPlatform", "guestAccelerators", "shieldedInstanceConfig", "sourceMachineImage", "canIpForward",
)  # fmt: skip


def node_config_findings(provider: Document, field: str, node: Mapping[str, Any], keeps: bool) -> Iterator[Finding]:
    """keeps: the node holds what a run cannot lose (the head, the learner), and must not be pre-emptible."""
    if provider["type"] == "aws":
        yield from _aws(field, node)
        if keeps and "InstanceMarketOptions" in node:
            yield Finding(
                f"{field}.InstanceMarketOptions", "got a spot instance, allowed none here: a run cannot lose it"
            )
    elif provider["type"] == "gcp":
        yield from _gcp(provider, field, node)
        spot = node.get("scheduling") or {}
        if keeps and (spot.get("preemptible") or spot.get("provisioningModel") == "SPOT"):
            yield Finding(f"{field}.scheduling", "got a spot machine, allowed none here: a run cannot lose it")


def _aws(field: str, node: Mapping[str, Any]) -> Iterator[Finding]:
    if not node.get("SecurityGroupIds"):
        yield Finding(
            f"{field}.SecurityGroupIds",
            "got nothing, allowed a group of your own: the one that Ray makes opens port 22 to the world",
        )
    yield from _against_shape(field, node, _run_instances())


@functools.cache
def _run_instances() -> StructureShape:
    """EC2's RunInstances, as botocore describes it."""
    loader = botocore.session.get_session().get_component("data_loader")
    model = ServiceModel(loader.load_service_model("ec2", "service-2"), service_name="ec2")
    shape: StructureShape = model.operation_model("RunInstances").input_shape
    return shape


def _against_shape(field: str, value: Any, shape: Shape) -> Iterator[Finding]:
    """Names, kinds and enumerations of a request."""
    if shape.type_name == "structure":
        if not isinstance(value, Mapping):
            yield Finding(field, f"got {value!r}, allowed a mapping")
            return
        for name, item in value.items():
            if name not in shape.members:
                yield Finding(f"{field}.{name}", f"unknown field{nearest(name, shape.members)}")
            else:
                yield from _against_shape(f"{field}.{name}", item, shape.members[name])
    elif shape.type_name == "list":
        if not isinstance(value, list):
            yield Finding(field, f"got {value!r}, allowed a list")
            return
        for index, item in enumerate(value):
            yield from _against_shape(f"{field}[{index}]", item, shape.member)
    elif shape.type_name == "string":
        allowed = getattr(shape, "enum", [])
        if allowed and value not in allowed:
            yield Finding(
                field, f"got {value!r}, which is none of the {len(allowed)} known{nearest(str(value), allowed)}"
            )
    elif shape.type_name in ("integer", "long") and (not isinstance(value, int) or isinstance(value, bool)):
        yield Finding(field, f"got {value!r}, allowed a whole number")
    elif shape.type_name == "boolean" and not isinstance(value, bool):
        yield Finding(field, f"got {value!r}, allowed true or false")


def _gcp(provider: Document, field: str, node: Mapping[str, Any]) -> Iterator[Finding]:
    for name in node:
        if name not in GCP_FIELDS:
            yield Finding(f"{field}.{name}", f"unknown field{nearest(name, GCP_FIELDS)}")
    interfaces = node.get("networkInterfaces") or []
    if not interfaces or any(interface.get("accessConfigs") for interface in interfaces):
        yield Finding(f"{field}.networkInterfaces", "got a public address, allowed interfaces without accessConfigs")
    if provider.get("use_internal_ips") is not True:
        yield Finding(
            "provider.use_internal_ips", f"got {provider.get('use_internal_ips')}, allowed true: no node is public"
        )
