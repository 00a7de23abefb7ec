"""Token layouts, fast against slow over a grid, and the layouts that the checks refuse."""

from __future__ import annotations

import pytest
import torch

from cluster.errors import UserError
from codec.layout import Layout, delay_pattern, interleaved_frames

GRID = [(1, 1), (1, 5), (2, 3), (4, 1), (4, 7), (5, 100)]


def _slow_delay(codes: torch.Tensor, empty: int) -> torch.Tensor:
    batch, levels, frames = codes.shape
    out = torch.full((batch, levels, frames + levels), empty)
    for b in range(batch):
        for k in range(levels):
            for t in range(frames):
                out[b, k, t + k + 1] = codes[b, k, t]
    return out


def _slow_interleaved(codes: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[[int(v) for frame in clip.T for v in frame]] for clip in codes])


@pytest.mark.parametrize(("levels", "frames"), GRID)
def test_delay_equals_the_slow_loop_and_comes_back(levels: int, frames: int) -> None:
    codes = torch.randint(0, 50, (3, levels, frames))
    layout = delay_pattern(levels, frames)
    sequence = layout.to_sequence(codes, empty=99)
    assert torch.equal(sequence, _slow_delay(codes, 99))
    assert torch.equal(layout.from_sequence(sequence), codes)
    assert torch.equal(layout.valid_mask(), _slow_delay(codes, 99)[0] != 99)


@pytest.mark.parametrize(("levels", "frames"), GRID)
def test_interleaved_equals_the_slow_loop_and_comes_back(levels: int, frames: int) -> None:
    codes = torch.randint(0, 50, (3, levels, frames))
    layout = interleaved_frames(levels, frames)
    sequence = layout.to_sequence(codes, empty=99)
    assert torch.equal(sequence, _slow_interleaved(codes))
    assert torch.equal(layout.from_sequence(sequence), codes)
    assert bool(layout.valid_mask().all())


def test_what_stands_in_empty_places_is_ignored() -> None:
    layout = delay_pattern(3, 4)
    codes = torch.randint(0, 50, (2, 3, 4))
    sequence = layout.to_sequence(codes, empty=99)
    garbage = torch.where(layout.valid_mask(), sequence, torch.randint(0, 50, sequence.shape))
    assert torch.equal(layout.from_sequence(garbage), codes)


def test_delay_step_zero_is_empty_and_valid_cells_are_k_times_t() -> None:
    mask = delay_pattern(4, 10).valid_mask()
    assert mask.shape == (4, 14)
    assert not bool(mask[:, 0].any())
    assert int(mask.sum()) == 40


@pytest.mark.parametrize(
    ("frame", "level", "complaint"),
    [
        (((0,), (0,)), ((0,), (0,)), "shown twice"),
        (((0,),), ((0,),), "1 of 2 cells"),
        (((0,), (0,)), ((1,), (0,)), "before what it depends on"),
    ],
)
def test_a_broken_table_is_refused(frame: tuple, level: tuple, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Layout(2, 1, frame, level)


def test_time_must_not_run_backwards() -> None:
    with pytest.raises(UserError, match="before what it depends on"):
        Layout(1, 2, ((1,), (0,)), ((0,), (0,)))


def test_wrong_shapes_and_sizes_are_refused() -> None:
    layout = delay_pattern(2, 3)
    with pytest.raises(ValueError, match="codes: got shape"):
        layout.to_sequence(torch.zeros(1, 3, 3, dtype=torch.long), empty=0)
    with pytest.raises(ValueError, match="sequence: got shape"):
        layout.from_sequence(torch.zeros(1, 2, 4, dtype=torch.long))
    with pytest.raises(UserError, match="at least 1"):
        interleaved_frames(0, 3)
