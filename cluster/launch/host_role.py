"""`python -m cluster.launch.host_role path=FILE`: Ray resources of this host, for `ray start --resources`.

Ray's launcher knows one kind of node where hosts are listed by hand. Which of them is a learner, generator or scorer
stands under `metadata.roles` of the launch file, by address; a host finds itself there by the addresses it has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.launch.documents import Document, Finding, read_documents
from cluster.placement import GROUPS
from configs.command_line import exit_status_of, nearest, parse_settings
from configs.errors import UserError


@dataclass(frozen=True)
class Settings:
    path: str = "on-premise.yaml"


def own_addresses() -> frozenset[str]:
    """IPv4 and IPv6 addresses of this host's interfaces."""
    interfaces = psutil.net_if_addrs().values()
    return frozenset(address.address.split("%")[0] for interface in interfaces for address in interface)


def resources_of(config: Document, addresses: frozenset[str]) -> dict[str, int]:
    """{role: 1} of the host with these addresses. Raises UserError where no role is listed for it."""
    roles = (config.get("metadata") or {}).get("roles") or {}
    found = sorted({role for address, role in roles.items() if address in addresses})
    if len(found) != 1:
        listed = ", ".join(roles)
        raise UserError(f"metadata.roles: got {len(found)} roles for this host, allowed one; listed are {listed}")
    return {found[0]: 1}


def role_findings(config: Document) -> Iterator[Finding]:
    """Every worker has one role, and every role a worker."""
    workers = [str(address) for address in config["provider"].get("worker_ips") or []]
    if not config["provider"].get("head_ip"):
        yield Finding("provider.head_ip", "got nothing, allowed the address of the head")
    roles: dict[str, str] = (config.get("metadata") or {}).get("roles") or {}
    for address in workers:
        if address not in roles:
            yield Finding("metadata.roles", f"got no role for the worker {address}, allowed one of {', '.join(GROUPS)}")
        if workers.count(address) > 1 or address == config["provider"].get("head_ip"):
            yield Finding("provider.worker_ips", f"got {address} twice, allowed once: a host is one node")
    for address, role in roles.items():
        if address not in workers:
            yield Finding(f"metadata.roles.{address}", "got a host that is not in provider.worker_ips")
        if role not in GROUPS:
            yield Finding(
                f"metadata.roles.{address}", f"got {role!r}{nearest(role, GROUPS)}; allowed {', '.join(GROUPS)}"
            )
    for group in GROUPS:
        if group not in roles.values():
            yield Finding("metadata.roles", f"got no {group}, allowed one at least: a run needs it")


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit status; prints the resources as JSON."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status_of(lambda: _print(parse_settings(words, Settings())))


def _print(settings: Settings) -> None:
    config = read_documents(Path(settings.path))[0]
    print(json.dumps(resources_of(config, own_addresses())))


if __name__ == "__main__":
    sys.exit(main())
