from __future__ import annotations

import pytest

from cluster.errors import UserError
from cluster.placement import PLACE, Placement, actor_options, check_gpus, plan, plan_groups
from configs.schema import Config


def config(mode: str = "sync", generators: int = 1, generator_cpus: int = 1, learner_cpus: int = 1) -> Config:
    made = Config()
    made.pipeline.mode = mode
    made.actors.generators, made.actors.generator_cpus = generators, generator_cpus
    made.learner.cpus = learner_cpus
    return made


def reserved(placement: Placement, made: Config) -> float:
    return (
        placement.generator.cpus * made.actors.generators
        + placement.scorer.cpus * made.actors.scorers
        + placement.learner.cpus
        + placement.replay.cpus
        + placement.evaluator.cpus
    )


def test_a_large_node_gives_each_role_its_own_cpus() -> None:
    made = config("async", generators=4, generator_cpus=2, learner_cpus=8)
    placement = plan(made, [32.0])
    assert not placement.shared
    assert (placement.generator.cpus, placement.generator.threads) == (2.0, 2)
    assert (placement.learner.cpus, placement.learner.threads) == (8.0, 8)


@pytest.mark.parametrize("generators", [1, 2])
def test_two_cores_are_shared_in_turns_and_everything_can_be_scheduled(generators: int) -> None:
    made = config("sync", generators=generators, learner_cpus=2)
    placement = plan(made, [2.0])
    assert placement.shared
    assert reserved(placement, made) <= 2.0
    assert (placement.learner.threads, placement.generator.threads) == (2, 1)  # threads are not shared out


def test_asynchronous_roles_must_fit_side_by_side() -> None:
    assert plan(config("async"), [2.0]).shared  # one generator, one learner; the scorer squeezes in
    with pytest.raises(UserError, match=r"actors\.generators: got 2 x 1 .* allowed 2 CPUs"):
        plan(config("async", generators=2), [2.0])


def test_more_than_the_largest_node_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"learner\.cpus: got 16, allowed at most 8"):
        plan(config(learner_cpus=16), [8.0, 8.0])
    with pytest.raises(UserError, match=r"actors\.generator_cpus: got 9"):
        plan(config(generator_cpus=9), [8.0, 8.0])


def test_workers_of_the_learner_each_have_their_cpus_and_gpu() -> None:
    made = config("async", generators=2, learner_cpus=3)
    made.learner.workers, made.learner.gpus = 4, 1
    placement = plan(made, [32.0])
    assert (placement.learner.cpus, placement.learner.threads, placement.learner.gpus) == (3.0, 3, 1)
    options = actor_options(placement.learner, on_this_node=False, local=True)
    assert options["num_gpus"] == 1 and "num_gpus" not in actor_options(
        placement.scorer, on_this_node=False, local=True
    )
    shared = plan(config("sync", learner_cpus=1), [2.0]).learner.cpus
    made = config("sync", learner_cpus=1)
    made.learner.workers = 2
    assert plan(made, [2.0]).learner.cpus < shared  # two take turns with the others on the same two cores
    made.learner.workers = 3
    with pytest.raises(UserError, match=r"learner\.workers x learner\.cpus: got 3, allowed at most 2"):
        plan(made, [2.0])
    with pytest.raises(UserError, match=r"learner\.workers x learner\.cpus: got 3, allowed at most 2"):
        plan_groups(made, [{"CPU": 2.0, "learner": 1.0}], {"CPU": 2.0, "learner": 1.0})


def test_more_learners_than_gpus_are_refused_where_gpus_are_asked_for() -> None:
    made = config()
    made.learner.workers, made.learner.gpus = 4, 1
    check_gpus(made, {"CPU": 64.0, "GPU": 4.0})
    with pytest.raises(UserError, match=r"learner\.workers: got 4 with learner\.gpus=1, allowed at most 2, the GPUs"):
        check_gpus(made, {"CPU": 64.0, "GPU": 2.0})
    with pytest.raises(UserError, match=r"allowed at most 0, .*learner\.gpus=0"):
        check_gpus(made, {"CPU": 64.0})
    made.learner.gpus = 0
    check_gpus(made, {"CPU": 64.0})


def test_generators_may_be_spread_over_nodes() -> None:
    placement = plan(config("async", generators=12, learner_cpus=4), [8.0, 8.0, 8.0])
    assert not placement.shared


LEARNER = {"CPU": 8.0, "learner": 1.0}
GENERATOR = {"CPU": 4.0, "generator": 1.0}


def test_each_role_asks_for_its_group_and_an_empty_group_is_no_obstacle() -> None:
    made = config("async", generators=100, generator_cpus=4, learner_cpus=8)
    placement = plan_groups(made, [{"CPU": 0.0}, LEARNER], LEARNER)
    assert not placement.shared
    assert (placement.generator.group, placement.scorer.group) == ("generator", "scorer")
    assert {placement.learner.group, placement.replay.group, placement.evaluator.group} == {"learner"}
    options = actor_options(placement.generator, on_this_node=False, local=True)
    assert options["num_cpus"] == 4
    assert options["resources"] == {"generator": PLACE}
    assert "resources" not in actor_options(plan(made, [512.0]).generator, on_this_node=False, local=True)


def test_the_driver_must_be_on_a_learner_node() -> None:
    with pytest.raises(UserError, match=r"entrypoint-resources: got .* without the resource 'learner'"):
        plan_groups(config(), [{"CPU": 4.0}, LEARNER], {"CPU": 4.0})


def test_more_than_a_node_of_the_group_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"actors\.generator_cpus: got 5, allowed at most 4"):
        plan_groups(config(generator_cpus=5), [LEARNER, GENERATOR], LEARNER)
    with pytest.raises(UserError, match=r"learner\.cpus: got 9, allowed at most 8"):
        plan_groups(config(learner_cpus=9), [LEARNER, GENERATOR, {"CPU": 64.0}], LEARNER)
