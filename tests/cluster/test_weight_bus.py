"""The weight bus over every backend: weights arrive as they were sent, without needless copies, or not at all."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import ray

from cluster.weight_broadcast import Collective
from cluster.weight_bus import CorruptWeights, Publication, WeightBus, receive, receive_into
from cluster.weight_layout import PIECE_BYTES, layout
from cluster.weight_transports import InProcess, ObjectStore

WEIGHTS = {
    "embed": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.arange(5, dtype=np.float16),
    "scalar": np.float32(7.0).reshape(()),
    "count": np.asarray([2**40], dtype=np.int64),
    "head": np.linspace(-1, 1, 1000, dtype=np.float32).reshape(10, 100),
}
BACKENDS = {"in_process": InProcess, "object_store": ObjectStore, "collective": lambda: Collective("127.0.0.1", 10.0)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


@pytest.fixture(params=BACKENDS)
def make_bus(request: pytest.FixtureRequest, cluster: None) -> Iterator[Callable[..., WeightBus]]:
    made: list[WeightBus] = []

    def make(bucket_bytes: int = 2**20) -> WeightBus:
        made.append(WeightBus("run-a", BACKENDS[request.param](), bucket_bytes))
        return made[-1]

    yield make
    for bus in made:
        bus.close()


def read(publication: Publication) -> dict[str, np.ndarray]:
    shapes = {spec.name: (spec.shape, spec.dtype) for spec in publication.spec}
    return dict(receive(publication, lambda name: np.empty(*shapes[name]), 20.0))


def empty() -> dict[str, np.ndarray]:
    return {name: np.zeros_like(array) for name, array in WEIGHTS.items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and np.array_equal(one[name], other[name])
        for name in one
    )


@pytest.mark.parametrize(("bucket_bytes", "buckets"), [(1, 5), (100, 3), (2**20, 1)])
def test_what_is_received_is_what_was_published(
    make_bus: Callable[..., WeightBus], bucket_bytes: int, buckets: int
) -> None:
    publication = make_bus(bucket_bytes).publish(WEIGHTS, version=3)
    assert len(publication.digests) == buckets
    assert same(read(publication), WEIGHTS)
    own = empty()
    receive_into(publication, own, 20.0)
    assert same(own, WEIGHTS)


def test_tensors_larger_than_a_piece_arrive_whole(make_bus: Callable[..., WeightBus]) -> None:
    rng = np.random.default_rng(0)
    sizes = {"just": PIECE_BYTES, "more": PIECE_BYTES + 1, "none": 0, "many": 3 * PIECE_BYTES - 7}
    weights = {name: rng.integers(0, 256, size, dtype=np.uint8) for name, size in sizes.items()}
    own = {name: np.zeros_like(array) for name, array in weights.items()}
    receive_into(make_bus(4 * PIECE_BYTES).publish(weights, version=0), own, 20.0)
    assert same(own, weights)


def test_arrays_in_any_order_of_memory_are_sent_and_filled(make_bus: Callable[..., WeightBus]) -> None:
    turned = {"head": np.arange(12, dtype=np.float32).reshape(3, 4).T}
    own = {"head": np.zeros((3, 4), np.float32).T}
    receive_into(make_bus().publish(turned, version=0), own, 20.0)
    assert same(own, turned) and not own["head"].flags.c_contiguous


def test_a_reader_cannot_change_what_others_read(make_bus: Callable[..., WeightBus]) -> None:
    publication = make_bus().publish(WEIGHTS, version=0)
    with publication.ticket.open(publication, 20.0) as buckets:
        assert all(piece.readonly for bucket in buckets for piece in bucket)


def test_publishing_copies_so_the_learner_may_go_on(make_bus: Callable[..., WeightBus]) -> None:
    live = {"w": np.ones(4, np.float32)}
    publication = make_bus().publish(live, version=0)
    live["w"][:] = 2.0
    assert read(publication)["w"].tolist() == [1.0] * 4


def test_one_changed_bit_is_refused_and_the_next_publication_is_whole(make_bus: Callable[..., WeightBus]) -> None:
    bus, own = make_bus(100), empty()
    publication = bus.publish(WEIGHTS, version=4)
    damaged = replace(publication, ticket=Damaging(publication.ticket))
    with pytest.raises(CorruptWeights, match=r"version 4: checksum .* bucket 2 of 3"):
        receive_into(damaged, own, 20.0)
    with pytest.raises(CorruptWeights, match="bucket 2 of 3"):
        read(publication)  # the damage is where the weights lie, so asking again for the same ones is no help
    again = bus.publish(WEIGHTS, version=4)
    receive_into(again, own, 20.0)
    assert same(own, WEIGHTS) and again.checksum == publication.checksum


def test_other_names_are_refused(make_bus: Callable[..., WeightBus]) -> None:
    publication = make_bus().publish(WEIGHTS, version=4)
    renamed = tuple(replace(spec, name=spec.name + "x") for spec in publication.spec)
    with pytest.raises(CorruptWeights, match=r"checksum .* the names and shapes"):
        read(replace(publication, spec=renamed))


def test_equal_weights_have_equal_checksums(make_bus: Callable[..., WeightBus]) -> None:
    bus = make_bus()
    first, second = (bus.publish(WEIGHTS, version).checksum for version in (1, 2))
    other = bus.publish(WEIGHTS | {"head": WEIGHTS["head"] + 1}, version=3).checksum
    assert first == second != other


def test_versions_only_rise_and_two_are_kept(make_bus: Callable[..., WeightBus]) -> None:
    bus = make_bus()
    for version in (0, 1, 5, 5):
        bus.publish(WEIGHTS, version)
    assert [kept.version for kept in bus.kept] == [1, 5]
    assert bus.newest is not None and bus.newest.epoch == "run-a"
    with pytest.raises(ValueError, match="allowed 5 or above"):
        bus.publish(WEIGHTS, 4)


def test_a_part_is_published_over_its_base(make_bus: Callable[..., WeightBus]) -> None:
    bus, adapter = make_bus(), {"half": np.ones(5, np.float16)}
    base = bus.publish(WEIGHTS, 0)
    parts = [bus.publish({"half": adapter["half"] * version}, version, base=base) for version in (1, 2, 3)]
    assert read(parts[-1])["half"].tolist() == [3.0] * 5
    assert list(read(parts[-1])) == ["half"]
    assert parts[-1].base is not None and same(read(parts[-1].base), WEIGHTS)  # still there for whoever comes late
    assert len({part.checksum for part in parts} | {base.checksum}) == 4
    with pytest.raises(ValueError, match="base: got version 3"):
        bus.publish(adapter, 4, base=parts[-1])
    with pytest.raises(ValueError, match="base: got version 0"):
        bus.publish({"other": adapter["half"]}, 4, base=base)
    with pytest.raises(ValueError, match="base: got version 3"):
        bus.publish(adapter, 4, base=parts[-1], merged=True)
    whole = bus.publish(WEIGHTS | adapter, 4)
    assert same(read(whole), WEIGHTS | adapter)


def test_tensors_lie_apart_and_aligned() -> None:
    spec = layout(WEIGHTS, 2**20)
    assert all(tensor.offset_bytes % 64 == 0 for tensor in spec)
    ends = [tensor.offset_bytes + tensor.size_bytes for tensor in spec]
    assert all(end <= after.offset_bytes for end, after in zip(ends, spec[1:], strict=False))


def test_processes_of_a_node_read_the_object_store_itself(cluster: None) -> None:
    @ray.remote(num_cpus=0.1)
    def places(publication: Publication) -> list[str]:
        """What is mapped where each piece lies."""
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        spans = [(*(int(end, 16) for end in line[0].split("-")), " ".join(line[5:])) for line in maps]
        with publication.ticket.open(publication, 20.0) as buckets:
            found = [np.frombuffer(piece, np.uint8).ctypes.data for bucket in buckets for piece in bucket]
        return [name for place in found for begin, end, name in spans if begin <= place < end]

    weights = {"large": np.ones(2 * PIECE_BYTES, np.uint8)}
    bus = WeightBus("run-a", ObjectStore())
    where = ray.get(places.remote(bus.publish(weights, version=0)), timeout=60)
    assert len(where) == 2 and all("plasma" in name for name in where)


def test_a_refusal_in_another_process_is_known_as_one(cluster: None) -> None:
    """learner.delivery asks the learner to publish again by this."""

    @ray.remote(num_cpus=0.1)
    def load(publication: Publication) -> None:
        receive_into(publication, {spec.name: np.zeros(spec.shape, spec.dtype) for spec in publication.spec})

    publication = WeightBus("run-a", ObjectStore()).publish(WEIGHTS, version=0)
    damaged = replace(publication, digests=(publication.digests[0] ^ 1,))

    async def delivered() -> None:
        await load.remote(damaged)

    with pytest.raises(CorruptWeights, match="version 0: checksum"):
        asyncio.run(delivered())


def test_a_dropped_version_leaves_the_object_store(cluster: None) -> None:
    bus = WeightBus("run-a", ObjectStore())
    first = bus.publish(WEIGHTS, 0).ticket.references[0]
    name = first.hex()
    assert name in held_objects()
    del first
    bus.publish(WEIGHTS, 1)
    bus.publish(WEIGHTS, 2)
    assert name not in held_objects()


def held_objects() -> set[str]:
    """Objects that this process keeps alive."""
    counts = ray._private.worker.global_worker.core_worker.get_all_reference_counts()
    return {name.decode() for name in counts}


@dataclass
class Damaging:
    """A ticket whose reader changes one bit of what it is lent, where it lies, as a stray write would."""

    ticket: object

    @contextmanager
    def open(self, publication: Publication, deadline_s: float) -> Iterator[list[list[memoryview]]]:
        with self.ticket.open(publication, deadline_s) as buckets:  # type: ignore[attr-defined]
            place = np.frombuffer(buckets[-1][-1], np.uint8).ctypes.data + 100
            ctypes.c_uint8.from_address(place).value ^= 1
            yield buckets
