"""Thresholds for a rate of alarms, against the distributions that theory promises."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest, norm
from scipy.stats import t as student

from vigil.pipeline.scores.alarm_rate import (
    LEVELS,
    Recording,
    allowed_alarms,
    block_maxima,
    daily_share_interval,
    find_drift,
    needed_blocks,
    ordinary_quantiles,
    share_interval,
    threshold_above,
)


def make_recording(scores, edges):
    edges = np.array(edges, dtype=float)
    return Recording(np.array(scores, dtype=float), np.stack([edges[:-1], edges[1:]], axis=1))


def test_a_segment_counts_in_every_block_that_it_touches():
    first = make_recording([0.1, 0.9, 0.2], [0, 8, 22, 25])
    second = make_recording([0.3, 0.4], [0, 5, 18])  # from 25 s on: 25 to 30, 30 to 43
    maxima, rest = block_maxima([first, second], 10)
    assert maxima.tolist() == [0.9, 0.9, 0.9, 0.4]
    assert rest == pytest.approx(3)
    assert block_maxima([first], 30) == (pytest.approx(np.empty(0)), 25)
    assert block_maxima([make_recording([0.7], [0, 0])], 10)[0].tolist() == []


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 1), st.integers(1, 400)), min_size=1, max_size=20),
        min_size=1,
        max_size=4,
    ),
    st.integers(20, 300),
)
def test_block_maxima_are_those_of_every_tenth_of_a_second(recordings, tenths):
    made, line = [], []
    for segments in recordings:
        edges = np.cumsum([0, *(length for _, length in segments)]) / 10
        made.append(make_recording([score for score, _ in segments], edges))
        line += [score for score, length in segments for _ in range(length)]
    expected = [
        max(line[start : start + tenths]) for start in range(0, len(line) - tenths + 1, tenths)
    ]
    maxima, rest = block_maxima(made, tenths / 10)
    assert maxima.tolist() == expected
    assert rest == pytest.approx(len(line) % tenths / 10, abs=1e-6)


@given(st.floats(1e-4, 0.99))
def test_the_hours_that_are_needed_are_just_enough(share):
    needed = needed_blocks(share)
    assert allowed_alarms(needed, share) >= 1
    assert needed == 0 or allowed_alarms(needed - 1, share) == 0


def test_one_alarm_a_day_needs_a_day_less_a_block():
    assert needed_blocks(1 / 288) == 287
    assert needed_blocks(1 / (7 * 288)) == 7 * 288 - 1
    assert allowed_alarms(287, 1 / 288) == 1
    assert allowed_alarms(286, 1 / 288) == 0
    assert allowed_alarms(2 * 288 - 1, 20 / 288) == 40


@pytest.mark.parametrize(("num_blocks", "share"), [(19, 0.05), (99, 0.05), (287, 20 / 288)])
def test_the_share_of_alarms_has_the_beta_distribution(num_blocks, share):
    """Uniform maxima: the true share of blocks that reach a threshold t is 1 - t."""
    num_alarms = allowed_alarms(num_blocks, share)
    draws = np.random.default_rng(0).random((4000, num_blocks))
    shares = np.array([1 - threshold_above(maxima, num_alarms) for maxima in draws])
    promised = beta(num_alarms, num_blocks + 1 - num_alarms)
    assert promised.mean() == pytest.approx(num_alarms / (num_blocks + 1))
    assert promised.mean() <= share + 1e-12
    assert kstest(shares, promised.cdf).pvalue > 0.01
    low, high = share_interval(num_blocks, num_alarms)
    assert np.mean((shares >= low) & (shares <= high)) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("num_days", [5, 14])
@pytest.mark.parametrize("day_effect", [0.0, 0.5])
def test_the_interval_holds_where_days_differ(num_days, day_effect):
    """The maxima are normal, with a level of the day; so is a block of any day."""
    rng, held, held_before = np.random.default_rng(4), [], []
    for _ in range(1000):
        days = day_effect * rng.standard_normal((num_days, 1))
        maxima = (rng.standard_normal((num_days, 100)) + days).ravel()
        num_alarms = allowed_alarms(len(maxima), 0.1)
        threshold = threshold_above(maxima, num_alarms)
        share = norm.sf(threshold / math.hypot(1, day_effect))
        low, high = daily_share_interval(maxima, num_alarms, 100)
        held.append(low <= share <= high)
        low, high = share_interval(len(maxima), num_alarms)
        held_before.append(low <= share <= high)
    assert np.mean(held) > 0.93  # 0.945 of 5 days that differ by half of the deviation
    assert (np.mean(held_before) > 0.93) == (day_effect == 0)


def test_the_interval_of_days_is_that_of_fewer_independent_blocks():
    """Of days that are all alarm or none, each is one block; alike ones are as good as theirs."""

    def exact(alarms, number, num_blocks, num_days):
        size = (student.ppf(0.975, num_blocks - 1) / student.ppf(0.975, num_days - 1)) ** 2
        alarms, others = size * alarms, size * (number - alarms)
        return beta.ppf(0.025, alarms, others + 1), beta.ppf(0.975, alarms + 1, others)

    alike = np.tile(np.arange(100) < 10, 30) * 0.5
    assert daily_share_interval(alike, 300, 100) == pytest.approx(exact(300, 3000, 3000, 30))
    one_thing = np.repeat(np.arange(12) < 4, 100) * 0.5
    assert daily_share_interval(one_thing, 400, 100) == pytest.approx(
        exact(4 * 11 / 12, 11, 1200, 12)  # the variance of a sample is unbiased
    )
    assert daily_share_interval(alike[: 4 * 100], 40, 100) is None
    assert daily_share_interval(np.ones(5), 5, 1) is None
    low, high = daily_share_interval(np.ones(700), 7, 100)  # ties
    assert 0 <= low < 0.01 < high < 1


def test_ties_give_no_more_alarms_than_promised():
    draws = np.random.default_rng(1).integers(0, 6, (4000, 100)) / 5
    alarms = [new >= threshold_above(maxima, 10) for *maxima, new in draws.tolist()]
    assert np.mean(alarms) <= 0.1
    maxima = np.array([0.2, 0.9, 0.9, 0.9])
    assert threshold_above(maxima, 1) == threshold_above(maxima, 3) == math.nextafter(0.9, 1)
    assert threshold_above(np.ones(5), 2) > 1


class TestDrift:
    @staticmethod
    def p_value(ordinary, new, per_day=20):
        quantiles = ordinary_quantiles(ordinary, per_day)
        return find_drift(new, quantiles, len(ordinary), per_day).p_value

    @pytest.mark.parametrize("day_effect", [0.0, 0.5])
    def test_ordinary_days_differ_as_rarely_as_it_says(self, day_effect):
        rng = np.random.default_rng(2)
        draws = rng.standard_normal((2000, 6, 20)) + day_effect * rng.standard_normal((2000, 6, 1))
        p_values = [self.p_value(draw[:4].ravel(), draw[4:].ravel()) for draw in draws]
        for level in (0.1, 0.01):
            assert np.mean(np.array(p_values) <= level) <= level * 1.2

    @pytest.mark.parametrize("exponent", [1 / 3, 3])  # higher, lower
    def test_shifted_scores_are_found(self, exponent):
        draw = np.random.default_rng(3).random(300)
        quantiles = ordinary_quantiles(draw[:200], 20)
        drift = find_drift(draw[200:] ** exponent, quantiles, 200, 20)
        assert drift.p_value < 1e-3
        assert drift.num_blocks == 100
        assert drift.level in LEVELS

    def test_days_decide_if_blocks_are_alike_within_them(self):
        """Three high days after three low ones: few of days, though many of blocks."""
        ordinary, new = np.repeat([0.1, 0.2, 0.6], 20), np.repeat([0.3, 0.7, 0.9], 20)
        assert self.p_value(ordinary, new, per_day=1e9) < 1e-3
        assert self.p_value(ordinary, new) > 0.01

    def test_equal_scores_are_no_drift(self):
        for value in (0.0, 1.0):
            assert self.p_value(np.full(50, value), np.full(50, value)) == 1

    def test_a_block_says_nothing(self):
        ordinary = np.linspace(0, 0.5, 1000)
        assert self.p_value(ordinary, np.ones(1)) > 1e-3
        assert self.p_value(ordinary[:1], np.ones(1)) > 1e-3
