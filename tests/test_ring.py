"""The ring of shared clips, against lists of arrays, and across processes."""

import multiprocessing
import os
import signal
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.extract.decode import ring as ring_module
from vigil.extract.decode.ring import ClipRing, Slot

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def ring():
    ring = ClipRing()
    yield ring
    ring.close()


def fill(ring, shape, value) -> Slot | None:
    clip = ring.next_clip(shape)
    if clip is None:
        return None
    clip[:] = value
    return ring.take()


def drain(ring, held):
    while held:
        ring.release(held.pop(0)[0].index)


SHAPES = st.tuples(*[st.integers(1, size) for size in (4, 40, 60, 3)])


@given(st.lists(SHAPES | st.just("release"), max_size=40))
def test_what_was_written_is_read_until_it_is_released(steps):
    """Clips of any sizes come and go; the reader has its own mapping of the memory."""
    writer = ClipRing()
    reader = ClipRing(os.dup(writer._descriptor))
    held = []
    for number, step in enumerate(steps):
        if step == "release":
            if held:
                writer.release(held.pop(0)[0].index)
            continue
        slot = fill(writer, step, number % 251)
        if slot is None:
            assert held  # an empty ring takes every clip
            drain(writer, held)
            slot = fill(writer, step, number % 251)
        held.append((slot, np.full(step, number % 251, np.uint8)))
        for taken, content in held:
            np.testing.assert_array_equal(reader.clip(taken), content)
        ranges = sorted((taken.offset, taken.offset + content.size) for taken, content in held)
        assert all(stop <= start for (_, stop), (start, _) in pairwise(ranges))
    writer.close()
    reader.close()


@pytest.mark.parametrize(("clip_bytes", "num_slots"), [(1 << 20, 4), (3 << 20, 3), (9 << 20, 2)])
def test_the_budget_sets_the_number_of_slots(ring, monkeypatch, clip_bytes, num_slots):
    monkeypatch.setattr(ring_module, "BUDGET_BYTES", 10 << 20)
    slots = []
    while (slot := fill(ring, (clip_bytes,), 1)) is not None:
        slots.append(slot)
    assert [slot.index for slot in slots] == list(range(num_slots))
    assert ring.memory.size == num_slots * clip_bytes


def test_a_larger_clip_waits_until_the_ring_is_empty(ring):
    first, second = fill(ring, (100,), 1), fill(ring, (100,), 2)
    assert ring.next_clip((5000,)) is None
    ring.release(first.index)
    assert ring.next_clip((5000,)) is None
    np.testing.assert_array_equal(ring.clip(second), np.full(100, 2))
    ring.release(second.index)
    assert ring.next_clip((5000,)).shape == (5000,)


def test_a_clip_stays_intact_while_the_next_is_filled(ring):
    fill(ring, (100,), 1)
    before = ring.clip(fill(ring, (100,), 2))
    for index in (0, 1):
        ring.release(index)
    fill(ring, (100,), 3)
    np.testing.assert_array_equal(before, np.full(100, 2))


def test_an_unused_buffer_is_returned_again(ring):
    first, again = ring.next_clip((10,)), ring.next_clip((10,))
    assert first.ctypes.data == again.ctypes.data


def test_clips_outlive_growth_and_the_ring(ring):
    slot = fill(ring, (10,), 7)
    clip = ring.clip(slot)
    ring.release(slot.index)
    large = ring.clip(fill(ring, (10, 10000), 9))
    assert ring.memory.size >= large.size
    ring.close()
    assert (large == 9).all()
    assert (clip == 9).all()  # the same memory: its slot was released


def write_and_die(ring, connection):
    connection.send([fill(ring, (3, 50, 70, 3), value) for value in (11, 22)])
    os.kill(os.getpid(), signal.SIGKILL)


def test_clips_of_a_process_that_was_killed_can_be_read(ring):
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=write_and_die, args=(ring, there))
    process.start()
    there.close()
    slots = here.recv()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for slot, value in zip(slots, (11, 22), strict=True):
        np.testing.assert_array_equal(ring.clip(slot), np.full((3, 50, 70, 3), value))
    assert os.fstat(ring._descriptor).st_nlink == 0  # no file that could be left behind


def test_a_new_writer_on_the_same_memory_starts_with_free_slots(ring):
    for value in range(4):
        fill(ring, (8000,), value)
    assert ring.next_clip((8000,)) is None
    successor = ClipRing(os.dup(ring._descriptor))
    slot = fill(successor, (8000,), 99)
    np.testing.assert_array_equal(ring.clip(slot), np.full(8000, 99))
    assert os.fstat(ring._descriptor).st_size == ring.memory.size
    successor.close()
