"""Weights arrive as they were sent, without a copy, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import ray

from cluster.errors import RunFailed
from cluster.weight_bus import InProcess, Publication, WeightBus, layout, receive

WEIGHTS = {
    "embed": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.arange(5, dtype=np.float16),
    "scalar": np.float32(7.0).reshape(()),
    "count": np.asarray([2**40], dtype=np.int64),
    "head": np.linspace(-1, 1, 1000, dtype=np.float32).reshape(10, 100),
}


def published(bucket_bytes: int = 2**20) -> tuple[InProcess, WeightBus]:
    transport = InProcess()
    return transport, WeightBus("run-a", transport, bucket_bytes)


@pytest.mark.parametrize(("bucket_bytes", "buckets"), [(1, 5), (100, 3), (2**20, 1)])
def test_what_is_received_is_what_was_published(bucket_bytes: int, buckets: int) -> None:
    transport, bus = published(bucket_bytes)
    publication = bus.publish(WEIGHTS, version=3)
    assert len(publication.handles) == buckets
    got = receive(publication, transport)
    assert list(got) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape
        assert np.array_equal(got[name], array)


def test_a_reader_cannot_change_what_others_read() -> None:
    transport, bus = published()
    got = receive(bus.publish(WEIGHTS, version=0), transport)
    with pytest.raises(ValueError, match="read-only"):
        got["head"][0, 0] = 1.0


def test_publishing_copies_so_the_learner_may_go_on() -> None:
    transport, bus = published()
    live = {"w": np.ones(4, np.float32)}
    publication = bus.publish(live, version=0)
    live["w"][:] = 2.0
    assert receive(publication, transport)["w"].tolist() == [1.0] * 4


def test_one_changed_bit_is_found_out() -> None:
    transport, bus = published()
    publication = bus.publish(WEIGHTS, version=4)
    damaged = publication.handles[0].copy()
    damaged[100] ^= 1
    with pytest.raises(RunFailed, match="version 4: checksum"):
        receive(replace(publication, handles=(damaged,)), transport)
    renamed = tuple(replace(spec, name=spec.name + "x") for spec in publication.spec)
    with pytest.raises(RunFailed, match="checksum"):
        receive(replace(publication, spec=renamed), transport)


def test_equal_weights_have_equal_checksums() -> None:
    first, second = (published()[1].publish(WEIGHTS, version=v).checksum for v in (1, 2))
    other = published()[1].publish(WEIGHTS | {"head": WEIGHTS["head"] + 1}, version=1).checksum
    assert first == second != other


def test_versions_only_rise_and_two_are_kept() -> None:
    _, bus = published()
    for version in (0, 1, 5):
        bus.publish(WEIGHTS, version)
    assert [kept.version for kept in bus.kept] == [1, 5]
    assert bus.newest is not None and bus.newest.epoch == "run-a"
    with pytest.raises(ValueError, match="allowed above 5"):
        bus.publish(WEIGHTS, 5)


def test_tensors_lie_apart_and_aligned() -> None:
    spec = layout(WEIGHTS)
    assert all(tensor.offset_bytes % 64 == 0 for tensor in spec)
    ends = [tensor.offset_bytes + tensor.size_bytes for tensor in spec]
    assert all(end <= after.offset_bytes for end, after in zip(ends, spec[1:], strict=False))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    yield
    ray.shutdown()


def test_another_process_reads_a_view_of_the_object_store(cluster: None) -> None:
    @ray.remote(num_cpus=0.1)
    def read(publication: Publication) -> tuple[float, bool, bool]:
        head = receive(publication)["head"]
        return float(head.sum()), head.flags.writeable, head.flags.owndata

    publication = WeightBus("run-a").publish(WEIGHTS, version=0)
    total, writeable, copied = ray.get(read.remote(publication), timeout=60)
    assert total == pytest.approx(float(WEIGHTS["head"].sum()))
    assert not writeable and not copied


def test_a_dropped_version_leaves_the_object_store(cluster: None) -> None:
    bus = WeightBus("run-a")
    first = bus.publish(WEIGHTS, 0).handles[0]
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
