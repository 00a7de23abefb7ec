"""What a restarted app finds in the log: pairs for its pool, and how far a study has come."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import combinations

from cluster.errors import UserError
from configs.prompts import load_prompts
from feedback.pair_writer import StudyTask
from feedback.pool import Pool
from feedback.preference_log import PreferenceLog
from feedback.rating_desk import RatingDesk
from feedback.records import Clip, Pair
from feedback.settings import StudySettings
from feedback.takes import Take


def refill(pool: Pool, log: PreferenceLog, suggestions: frozenset[str], versions: Mapping[str, str]) -> None:
    """Pairs of suggested prompts that nobody has answered yet, made by the policies that are served now."""
    with log.snapshot() as reader:
        for pair in reader.pairs(study="", answered=False):
            if not pool.lacks:
                return
            if pair.asked_by or pair.origin or pair.prompt not in suggestions:
                continue
            clips = (reader.clip(pair.clip_a), reader.clip(pair.clip_b))
            if all(versions.get(clip.policy) == clip.policy_version for clip in clips):
                pool.add(pair)


def resume_study(
    desk: RatingDesk, log: PreferenceLog, settings: StudySettings, versions: Mapping[str, str]
) -> list[StudyTask]:
    """Puts the study's pairs and ratings from the log on the desk -> the items that still have to be made.

    Raises UserError where the study in the log is of other policies, prompts or seeds: its ratings would be mixed with
    others of the same name.
    """
    wanted = {task_facts(task, versions): task for task in study_tasks(settings, versions)}
    with log.snapshot() as reader:
        found: dict[frozenset[str], list[Pair]] = {}
        for pair in reader.pairs(study=settings.name):
            found.setdefault(frozenset((pair.clip_a, pair.clip_b)), []).append(pair)
        for orders in found.values():
            clips = [reader.clip(clip_id) for clip_id in (orders[0].clip_a, orders[0].clip_b)]
            facts = _facts(orders[0].prompt, clips)
            if facts not in wanted or len(orders) != 2:
                raise UserError(
                    f"study.name: got {settings.name!r}, which the log holds with other clips (of other policies, "
                    "prompts or seed); allowed a new name, or the settings it was begun with"
                )
            del wanted[facts]
            desk.add(orders[0], orders[1])
        for rating in reader.ratings(study=settings.name):
            desk.rated(rating.listener_id, rating.pair_id)
    return list(wanted.values())


def study_tasks(settings: StudySettings, versions: Mapping[str, str]) -> list[StudyTask]:
    """Each prompt of the list for each two policies, both from the same noise; of one policy, from two."""
    prompts = load_prompts(settings.prompts, field="study.prompts")[: settings.count]
    names = list(versions)
    tasks = []
    for place, prompt in enumerate(dict.fromkeys(prompts)):
        seeds = [random.Random(f"{settings.seed} {place} {turn}").getrandbits(63) for turn in (0, 1)]
        takes = {name: [Take(name, seed, versions[name]) for seed in seeds] for name in names}
        same_noise = [(takes[one][0], takes[other][0]) for one, other in combinations(names, 2)]
        tasks += [
            StudyTask(settings.name, prompt, pair) for pair in same_noise or [(takes[names[0]][0], takes[names[0]][1])]
        ]
    return tasks


Facts = tuple[str, frozenset[tuple[str, str, int]]]  # prompt, (policy, version, seed) of both clips


def task_facts(task: StudyTask, versions: Mapping[str, str]) -> Facts:
    """What tells an item from every other."""
    return task.prompt, frozenset((take.policy, versions[take.policy], take.seed) for take in task.takes)


def _facts(prompt: str, clips: list[Clip]) -> Facts:
    return prompt, frozenset((clip.policy, clip.policy_version, clip.seed) for clip in clips)
