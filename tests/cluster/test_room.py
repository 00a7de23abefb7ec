"""What a cluster can never give is said before a run starts: wishes against nodes and the autoscaler's node types."""

from __future__ import annotations

import pytest

from cluster.errors import UserError
from cluster.placement import PLACE
from cluster.room import NodeType, check_room, fitting, parse_node_types
from configs.paths import PROJECT_ROOT
from configs.schema import Config

WISHES = {"generator": {"CPU": 4, "generator": PLACE}, "scorer": {"CPU": 2, "scorer": PLACE}}
LEARNER = {"CPU": 16.0, "learner": 1.0}
GENERATORS = NodeType("generator", {"CPU": 8, "generator": 1}, most=2)
SCORERS = NodeType("scorer", {"CPU": 2, "scorer": 1}, most=4)


def config(generators: int = 1, generators_max: int = 0) -> Config:
    made = Config()
    made.actors.generators, made.actors.generators_max = generators, generators_max
    return made


def test_cpus_bound_how_many_share_a_node() -> None:
    assert fitting({"CPU": 16, "generator": 1}, WISHES["generator"]) == 4
    assert fitting(LEARNER, WISHES["generator"]) == 0
    assert fitting({"CPU": 0.3}, {"CPU": 0.1}) == 3  # 0.3 / 0.1 is a little less than 3


def test_groups_at_zero_nodes_are_no_obstacle_and_are_told_of() -> None:
    notes = check_room(config(generators=4), WISHES, [LEARNER], [GENERATORS, SCORERS])
    assert notes == [
        "generators: room for 0 of 4 now, the autoscaler can add nodes",
        "scorers: room for 0 of 1 now, the autoscaler can add nodes",
    ]


def test_more_than_can_ever_come_is_refused_and_a_larger_most_is_told_of() -> None:
    with pytest.raises(
        UserError, match=r"^actors\.generators: got 5 that ask for CPU 4, generator 0\.001 each, allowed "
    ):
        check_room(config(generators=5), WISHES, [LEARNER], [GENERATORS, SCORERS])
    notes = check_room(config(generators=2, generators_max=9), WISHES, [LEARNER], [GENERATORS, SCORERS])
    assert notes[0] == "actors.generators_max is 9, but the cluster holds 4 at most"


def test_a_resource_that_no_node_type_offers_is_refused_with_what_there_is() -> None:
    odd = NodeType("gpu", {"CPU": 64, "generators": 1}, most=8)  # a typing mistake in the launch file
    with pytest.raises(UserError, match=r"which no node and no node type offers; to be had: gpu \(CPU 64, "):
        check_room(config(), WISHES, [LEARNER], [odd, SCORERS])
    small = NodeType("generator", {"CPU": 2, "generator": 1}, most=8)
    with pytest.raises(UserError, match="no node type offers"):
        check_room(config(), WISHES, [LEARNER], [small, SCORERS])
    with pytest.raises(UserError, match="no autoscaler was found"):
        check_room(config(), WISHES, [LEARNER], [])


def test_where_nobody_can_say_nothing_is_refused() -> None:
    notes = check_room(config(), WISHES, [LEARNER], None)
    assert notes[0] == "generators: room for 0 of 1 now, whether nodes can be added is not known here"


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_launch_files_offer_what_roles_ask_for(cloud: str) -> None:
    types = parse_node_types((PROJECT_ROOT / "cluster" / "launch" / f"{cloud}.yaml").read_text())
    assert types is not None
    assert {kind.name: kind.most for kind in types} == {"learner": 1, "generator": 32, "scorer": 4}
    assert len(check_room(config(generators=32), WISHES, [LEARNER], types)) == 2


def test_hosts_listed_by_hand_and_kubernetes_cannot_be_asked() -> None:
    assert parse_node_types((PROJECT_ROOT / "cluster" / "launch" / "on-premise.yaml").read_text()) is None
    assert parse_node_types("unknown") is None
    assert parse_node_types("") == []
