"""Two ranks of torch.distributed against one process alone: the same updates, the same metrics, checkpoints that either
reads; and what the pure parts do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cluster.errors import PeerMissing, RunFailed
from learner.checkpoint import load_checkpoint, save_checkpoint
from learner.meeting import MeetingPoint
from learner.parts import Parts
from learner.ranks import Alone, blocks_of, exchanging, share_of
from learner.sharding import join
from policy.checkpoint import load_policy
from policy.lora import merged_state
from tests.learner.rank_scenarios import SAVED_AT, SCENARIOS, SHORT, STEPS, made, train
from tests.learner.tiny_learner import batch, config, learner, tiny_policy

ROOT = Path(__file__).resolve().parents[2]
RANKS = 2


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two ranks left what they made of every scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.set_num_threads(1)
    for name in {"sharded", SHORT} & SCENARIOS.keys():
        before = made(name, None)
        train(name, before, SAVED_AT)
        save_checkpoint(
            folder / ("alone" if name == "sharded" else f"alone {name}"), SAVED_AT, before, {"by": "one"}, {}
        )
    meeting = MeetingPoint()
    arguments = [str(RANKS), str(meeting.place(0, RANKS).port), str(folder)]
    ranks = [_start([sys.executable, "-m", "tests.learner.rank_scenarios", str(r), *arguments]) for r in range(RANKS)]
    try:
        for rank in ranks:
            _, problem = rank.communicate(timeout=240)
            assert rank.returncode == 0, problem[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
    return folder


def _start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def alone(name: str) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    subject = made(name, None)
    metrics = train(name, subject, SCENARIOS[name].steps)
    return dict(merged_state(subject.policy)), metrics


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_ranks_make_the_updates_of_one(together: Path, name: str) -> None:
    found, (expected, metrics) = load_file(together / f"{name}.safetensors"), alone(name)
    start = SCENARIOS[name].policy(0).state_dict()
    assert found.keys() == expected.keys()
    moved = max((expected[key] - start[key]).abs().max() for key in expected)
    close = SCENARIOS[name].close
    assert moved > 100 * close or name in ("bfloat16", SHORT)
    if name == "bfloat16":
        assert max((found[key] - expected[key]).abs().max() for key in expected) > 1e-5  # rounded to 16 bits on the way
    if name == SHORT:  # sums in another order fall on another code now and then
        apart = torch.cat([(found[key] - expected[key]).abs().flatten() for key in expected])
        assert moved > 10 * close and (apart > 1e-5).double().mean() < 1e-3
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=close, msg=lambda m, key=key: f"{key}: {m}")
        assert found[key].dtype == torch.float32
    for rank in range(RANKS):
        seen = json.loads((together / f"{name} {rank}.json").read_text())
        loose = 0.1 if name == "bfloat16" else 1e-3
        assert seen == [pytest.approx(row, rel=loose, abs=loose, nan_ok=True) for row in metrics]


def test_the_exported_policy_is_whole_and_the_same(together: Path) -> None:
    exported = load_policy(together / "sharded" / "checkpoints" / f"step_{SAVED_AT}" / "policy").state_dict()
    expected = load_policy(together / "alone" / "checkpoints" / f"step_{SAVED_AT}" / "policy").state_dict()
    torch.testing.assert_close(exported, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["data", "sharded"])
def test_what_two_ranks_saved_goes_on_alone(together: Path, name: str) -> None:
    resumed = made(name, None)
    path = together / name / "checkpoints" / f"step_{SAVED_AT}"
    cut = sorted(file.name for file in path.glob("value*.safetensors"))
    assert cut == (["value.safetensors"] if name == "data" else [f"value-0000{r}-of-00002.safetensors" for r in (0, 1)])
    assert load_checkpoint(path, resumed) == {"by": name} and resumed.version == SAVED_AT
    train(name, resumed, STEPS)
    torch.testing.assert_close(dict(resumed.policy.state_dict()), alone(name)[0], rtol=0, atol=1e-5)


def test_what_one_saved_two_ranks_go_on_with(together: Path) -> None:
    found = load_file(together / "resumed.safetensors")
    torch.testing.assert_close(found, alone("sharded")[0], rtol=0, atol=1e-5)


@pytest.mark.skipif(SHORT not in SCENARIOS, reason="without the extra states: pip install 'musicrl-on-ray[states]'")
def test_codes_and_scales_pass_between_any_numbers_of_ranks(together: Path) -> None:
    """One wrote, two resumed and wrote: the same bits, each rank a half. What two trained, one resumes and writes."""
    alone, again = (together / f"{who} {SHORT}" / "checkpoints" / f"step_{SAVED_AT}" for who in ("alone", "again"))
    same_moments(alone, again)
    halves = [file.stat().st_size for file in sorted(again.glob("optimisers-*.safetensors"))]
    total = (alone / "optimisers.safetensors").stat().st_size
    assert len(halves) == RANKS and all(0.45 * total < half < 0.55 * total for half in halves)
    resumed = made(SHORT, None)
    theirs = together / SHORT / "checkpoints" / f"step_{SAVED_AT}"
    load_checkpoint(theirs, resumed)
    same_moments(theirs, save_checkpoint(together / "one of two", SAVED_AT, resumed, {}, {}))


def same_moments(first: Path, second: Path) -> None:
    with Parts(first, "optimisers") as one, Parts(second, "optimisers") as other:
        assert one.names == other.names
        assert any(name.endswith("codes") for name in one.names)
        for name in one.names:
            assert torch.equal(one.read(name), other.read(name)), name


def test_each_rank_holds_a_part_only(together: Path) -> None:
    path = together / "sharded" / "checkpoints" / f"step_{SAVED_AT}"
    sizes = [file.stat().st_size for file in sorted(path.glob("optimisers-*.safetensors"))]
    whole = (together / "alone" / "checkpoints" / f"step_{SAVED_AT}" / "optimisers.safetensors").stat().st_size
    assert len(sizes) == RANKS and all(0.35 * whole < size < 0.75 * whole for size in sizes)


def test_shares_are_those_of_chunk() -> None:
    for rows in range(12):
        for size in range(1, 6):
            chunks = list(torch.arange(rows).chunk(size)) + [torch.arange(0)] * size
            found = [torch.arange(*share_of(rows, rank, size)).tolist() for rank in range(size)]
            assert found == [chunk.tolist() for chunk in chunks[:size]]


def test_parts_are_read_by_rows_wherever_they_lie(tmp_path: Path) -> None:
    whole = torch.arange(10.0).view(5, 2)
    for rank, (first, stop) in enumerate([(0, 2), (2, 4), (4, 5)]):
        header = {"rows": json.dumps({"a": [first, 5]})}
        file = tmp_path / f"value-{rank:05d}-of-00003.safetensors"
        save_file({"a": whole[first:stop].clone(), "count": torch.tensor(7.0)}, file, metadata=header)
    with Parts(tmp_path, "value") as stored:
        assert torch.equal(stored.read("a"), whole) and stored.read("count") == 7
        for first in range(5):
            for stop in range(first, 6):
                assert torch.equal(stored.read_rows("a", first, stop), whole[first:stop])
        with pytest.raises(KeyError):
            stored.read("b")
    (tmp_path / "value-00001-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="2 parts of 3"):
        Parts(tmp_path, "value")


def test_a_worker_whose_others_do_not_come_says_so() -> None:
    meeting = MeetingPoint()
    with pytest.raises(RunFailed, match=r"^learner: worker 1 of 2 waited 0\.5 s for the others to start$"):
        join(config(), meeting.place(1, 2), start_s=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer", "learner: worker 1 of 2 lost its connection"),
        ("[gloo/unbound_buffer.cc:78] Timed out waiting 5000ms for recv", "worker 1 of 2 waited 5 s for the others in"),
    ],
)
def test_a_failed_exchange_is_told_from_other_errors(text: str, said: str) -> None:
    class Second(Alone):
        rank, size = 1, 2

    with pytest.raises(PeerMissing, match=said), exchanging(Second(), 5.0):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="shapes differ"), exchanging(Second(), 5.0):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="gloo"), exchanging(Alone(), 5.0):
        raise RuntimeError(text)


def test_blocks_are_the_layers_and_not_what_is_in_them() -> None:
    policy = tiny_policy()
    assert blocks_of(policy) == [*policy.trunk.blocks, *policy.depth.blocks]
    tables = nn.ModuleList([nn.Embedding(2, 2), nn.Embedding(2, 2)])  # read by weight as often as called: no blocks
    assert blocks_of(nn.ModuleDict({"tables": tables})) == []


def test_recomputed_blocks_keep_less_and_give_the_same_gradients() -> None:
    kept: dict[bool, int] = {}
    weights: dict[bool, dict[str, Tensor]] = {}
    for recomputed in (False, True):
        subject = learner(config(activation_checkpointing=recomputed))
        saved: dict[int, int] = {}

        def note(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            subject.step(batch(tiny_policy(1)))
        kept[recomputed], weights[recomputed] = sum(saved.values()), dict(subject.policy.state_dict())
    assert kept[True] < 0.7 * kept[False], kept
    assert all(torch.equal(weights[True][name], tensor) for name, tensor in weights[False].items())
