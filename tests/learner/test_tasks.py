from __future__ import annotations

from configs.schema import Config
from learner.prompts import PromptCursor
from learner.tasks import TaskPlan

PROMPTS = [f"prompt {number}" for number in range(10)]


def plan(seed: int = 1, rollout_size: int = 4, group_size: int = 1) -> TaskPlan:
    config = Config()
    config.run.seed = seed
    config.actors.rollout_size, config.sampling.group_size = rollout_size, group_size
    config.sampling.seconds = 2.0
    return TaskPlan(config, PromptCursor(PROMPTS, seed), frame_rate_hz=25.0)


def test_a_task_is_a_function_of_its_number_and_the_seed() -> None:
    assert plan().task(7) == plan().task(7)
    assert plan().task(7) != plan().task(8)
    assert plan(seed=1).task(7).seeds != plan(seed=2).task(7).seeds


def test_tasks_walk_through_all_prompts_before_any_comes_again() -> None:
    seen = [prompt for number in range(5) for prompt in plan().task(number).prompts]
    assert sorted(seen[:10]) == PROMPTS
    assert sorted(seen[10:]) == PROMPTS


def test_no_two_rows_share_their_noise() -> None:
    seeds = [seed for number in range(200) for seed in plan().task(number).seeds]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_group_stands_in_a_row() -> None:
    task = plan(rollout_size=6, group_size=3).task(2)
    assert len(task.prompts) == len(task.seeds) == 6
    assert len(set(task.prompts[:3])) == len(set(task.prompts[3:])) == 1
    assert task.prompts[0] != task.prompts[3]


def test_length_in_frames() -> None:
    assert plan().task(0).frames == 50
