"""Which seat of a cluster gets which video, against a simulation of seats that are lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigil.pipeline.cluster.video_queue import MAX_TRIES, VideoQueue


def drain(queue, seat):
    """Lease and conclude one video after the other."""
    done = []
    while (video := queue.lease(seat)) is not None:
        assert queue.conclude(seat, video)
        done.append(video)
    return done


@given(st.lists(st.integers(0, 9), max_size=8))
def test_the_largest_come_first_and_equal_ones_in_order(sizes):
    queue = VideoQueue()
    for number, size in enumerate(sizes):
        queue.add(str(number), size)
    queue.join("a", 1)
    order = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    assert drain(queue, "a") == [str(number) for number in order]


def test_no_seat_has_more_than_its_share():
    queue = VideoQueue()
    for number in range(4):
        queue.add(str(number), 9 - number)
    queue.join("a", 4)
    queue.join("b", 4)
    assert [queue.lease("a") for _ in range(3)] == ["0", "1", None]
    assert [queue.lease("b") for _ in range(3)] == ["2", "3", None]


def test_an_outcome_counts_only_from_the_seat_that_has_the_video():
    queue = VideoQueue()
    queue.add("v", 1)
    queue.join("a", 1)
    queue.join("b", 1)
    assert queue.lease("a") == "v"
    assert not queue.conclude("b", "v")
    assert queue.leave("a") == []
    assert not queue.conclude("a", "v")
    assert queue.lease("b") == "v"
    assert queue.conclude("b", "v")
    assert queue.num_open == 0


def test_videos_of_a_seat_without_blame_are_not_suspects():
    queue = VideoQueue()
    for _ in range(2 * MAX_TRIES):
        queue = queue if queue.num_open else VideoQueue()
        if not queue.num_open:
            queue.add("v", 1)
        queue.join("a", 2)
        assert queue.lease("a") == "v"
        assert queue.leave("a", is_blamed=False) == []
    assert queue.num_open == 1


@given(st.data())
def test_nothing_is_lost_nothing_comes_twice_and_tries_are_bounded(data):
    """Killers fail after `MAX_TRIES`; every other video is extracted, whatever is lost beside."""
    names = [str(number) for number in range(data.draw(st.integers(1, 7), "videos"))]
    killers = data.draw(st.sets(st.sampled_from(names)), "killers")
    accidents = data.draw(st.integers(0, 1 if killers else MAX_TRIES - 1), "accidents")
    sizes = {name: data.draw(st.integers(0, 5), f"size {name}") for name in names}
    slots = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3), "slots")
    seats = {f"s{number}": most for number, most in enumerate(slots)}
    queue, leased = VideoQueue(), {seat: [] for seat in seats}
    fresh, losses, outcomes = set(names), dict.fromkeys(names, 0), {}
    for name in names:
        queue.add(name, sizes[name])
    for seat, most in seats.items():
        queue.join(seat, most)

    while len(outcomes) < len(names):
        assert queue.num_open == len(names) - len(outcomes)
        seat = data.draw(st.sampled_from(sorted(seats)), "seat")
        mine = leased[seat]
        if (video := queue.lease(seat)) is not None:
            assert video not in outcomes
            assert all(video not in others for others in leased.values())
            assert video in fresh or not mine  # a suspect is alone
            assert all(losses[other] == 0 for other in mine)
            if video in fresh:
                assert sizes[video] == max(sizes[name] for name in fresh)
                fresh.remove(video)
            mine.append(video)
            assert len(mine) <= seats[seat]
        elif not any(leased.values()):
            assert any(try_all(queue, seats, leased, fresh)), "nobody may go on"
        if not mine or data.draw(st.booleans(), "wait"):
            continue
        is_accident = accidents > 0 and data.draw(st.booleans(), "accident")
        if is_accident or killers & set(mine):
            accidents -= not killers & set(mine)
            for video in mine:
                losses[video] += 1
            failed = {video for video in mine if losses[video] == MAX_TRIES}
            assert set(queue.leave(seat)) == failed
            outcomes |= dict.fromkeys(failed, "failed")
            queue.join(seat, seats[seat])
        else:
            assert queue.conclude(seat, mine[0])
            assert mine[0] not in outcomes
            outcomes[mine.pop(0)] = "extracted"
            continue
        mine.clear()
    assert {name for name in names if outcomes[name] == "failed"} == killers
    assert max(losses.values()) <= MAX_TRIES


def try_all(queue, seats, leased, fresh):
    """Lease to every seat; yields whether one got a video."""
    for seat in seats:
        if (video := queue.lease(seat)) is not None:
            leased[seat].append(video)
            fresh.discard(video)
            yield True


@pytest.mark.parametrize("num_seats", [2, 3])
def test_a_suspect_goes_to_another_seat_while_there_is_one_that_has_not_been_lost_with_it(
    num_seats,
):
    queue = VideoQueue()
    queue.add("v", 1)
    seats = [f"s{number}" for number in range(num_seats)]
    for seat in seats:
        queue.join(seat, 2)
    assert queue.lease("s0") == "v"
    assert queue.leave("s0") == []
    queue.join("s0", 2)
    assert queue.lease("s0") is None
    assert queue.lease("s1") == "v"
