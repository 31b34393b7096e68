"""Thresholds that keep a rate of alarms on new footage, from the scores of ordinary footage.

Time is cut into blocks. A block has an alarm if its maximum score reaches the threshold. If a new
block is exchangeable with n ordinary ones, its maximum exceeds the k-th largest of theirs with a
probability of at most k / (n + 1), whatever the distribution (Vovk, Gammerman, Shafer: Algorithmic
Learning in a Random World, 2005). If the blocks are also independent and no two maxima are equal,
the share of alarms among all future blocks has the distribution Beta(k, n + 1 - k) (Angelopoulos,
Bates: A Gentle Introduction to Conformal Prediction, 2021, section 3.2).

scipy.stats is slow to import, and only calibration needs it: functions that use it import it.

Legend: N segments of one recording, n blocks.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vigil.pipeline.calibration import OrdinaryQuantile
from vigil.pipeline.scores.metrics import FloatArray

CONFIDENCE = 0.95
MIN_DAYS = 5
"""Fewer days do not tell how days differ."""
LEVELS = (0.5, 0.9)
"""Quantiles of the ordinary maxima at which drift is tested."""
ROUNDING = 1e-9
"""Times and shares that differ by less are equal: 1 alarm in 288 blocks needs 287, not 288."""


class Recording(NamedTuple):
    """The scores of one recording; segments without frames are left out."""

    scores: FloatArray
    """(N,), 0..1."""
    seconds: FloatArray
    """(N, 2) half-open ranges from the start of the recording."""


class Drift(NamedTuple):
    """How new maxima lie about a quantile of the ordinary ones."""

    level: float
    """The quantile at which they differ most."""
    num_above: int
    """New maxima above it."""
    num_blocks: int
    p_value: float
    """Probability that exchangeable blocks differ as much at any level, at most."""


def block_maxima(recordings: Iterable[Recording], block_seconds: float) -> tuple[FloatArray, float]:
    """The maximum score of each block of one camera's recordings, which are joined end to end.

    A segment counts in every block that it touches.

    Returns:
        (n,) maxima of the whole blocks, and the seconds that remain after the last of them.
    """
    scores, starts, stops, length = [np.empty(0)], [np.empty(0)], [np.empty(0)], 0.0
    for recording in recordings:
        scores.append(recording.scores)
        starts.append(recording.seconds[:, 0] + length)
        stops.append(recording.seconds[:, 1] + length)
        length += float(recording.seconds[:, 1].max())
    num_blocks = math.floor(length / block_seconds + ROUNDING)
    first = np.floor(np.concatenate(starts) / block_seconds + ROUNDING).astype(np.int64)
    last = np.ceil(np.concatenate(stops) / block_seconds - ROUNDING).astype(np.int64) - 1
    last = np.minimum(np.maximum(first, last), num_blocks - 1)
    maxima, values = np.zeros(num_blocks), np.concatenate(scores)
    for offset in range(int((last - first).max(initial=-1)) + 1):
        touches = first + offset <= last
        np.maximum.at(maxima, first[touches] + offset, values[touches])
    return maxima, max(length - num_blocks * block_seconds, 0.0)


def allowed_alarms(num_blocks: int, share: float) -> int:
    """The largest k with k / (n + 1) <= share: the blocks that may exceed the threshold."""
    return math.floor(share * (num_blocks + 1) + ROUNDING)


def needed_blocks(share: float) -> int:
    """The fewest blocks for which `allowed_alarms` is at least 1."""
    return math.ceil(1 / share - 1 - ROUNDING)


def threshold_above(maxima: FloatArray, num_alarms: int) -> float:
    """The least threshold that at most k of the maxima reach: just above the k-th largest.

    Just above, because a segment at the threshold belongs to an event; equal maxima then have no
    alarm. It is above 1 if k or more maxima are 1.
    """
    return float(np.nextafter(np.sort(maxima)[-num_alarms], np.inf))


def share_interval(num_blocks: int, num_alarms: int) -> tuple[float, float]:
    """The central interval, with `CONFIDENCE`, of the share of future blocks with an alarm."""
    from scipy.stats import beta

    tail = (1 - CONFIDENCE) / 2
    low, high = beta.ppf([tail, 1 - tail], num_alarms, num_blocks + 1 - num_alarms)
    return float(low), float(high)


def daily_share_interval(
    maxima: FloatArray, num_alarms: int, blocks_per_day: float
) -> tuple[float, float] | None:
    """The same interval with days as the sample, since blocks of a day resemble each other.

    The variance of the share is that of its daily values over their number, and so few independent
    blocks would have it. Student's quantiles of days take the place of those of blocks, since few
    days tell their variance poorly. Source: Korn, Graubard: Confidence intervals for proportions
    with small expected number of positive counts estimated from survey data, Survey Methodology 24,
    1998.

    Args:
        maxima: (n,) of the blocks, in order of time.
        num_alarms: k; the k blocks with the highest maxima have an alarm.
        blocks_per_day: to tell days.

    Returns:
        None if there are fewer than `MIN_DAYS`, or every block has an alarm.
    """
    from scipy import stats

    num_blocks = len(maxima)
    is_alarm = np.zeros(num_blocks, bool)
    is_alarm[np.argsort(-maxima, kind="stable")[:num_alarms]] = True
    daily = _daily_shares(is_alarm, blocks_per_day)
    if len(daily) < MIN_DAYS or num_alarms == num_blocks:
        return None
    share, tail = num_alarms / num_blocks, (1 - CONFIDENCE) / 2
    quantiles = stats.t.ppf(tail, [num_blocks - 1, len(daily) - 1])
    variance = max(float(np.var(daily, ddof=1)) / len(daily), share * (1 - share) / num_blocks)
    size = share * (1 - share) / variance * (quantiles[0] / quantiles[1]) ** 2
    alarms, others = size * share, size * (1 - share)
    low = stats.beta.ppf(tail, alarms, others + 1)
    return float(low), float(stats.beta.ppf(1 - tail, alarms + 1, others))


def ordinary_quantiles(maxima: FloatArray, blocks_per_day: float) -> tuple[OrdinaryQuantile, ...]:
    """The order statistics of ordinary maxima (n,), n >= 1, at each of `LEVELS`."""
    increasing = np.sort(maxima)
    values = [float(increasing[-_rank(level, len(maxima))]) for level in LEVELS]
    return tuple(
        OrdinaryQuantile(level, value, _daily_shares(maxima > value, blocks_per_day))
        for level, value in zip(LEVELS, values, strict=True)
    )


def find_drift(
    maxima: FloatArray,
    quantiles: Sequence[OrdinaryQuantile],
    num_blocks: int,
    blocks_per_day: float,
) -> Drift:
    """Test whether new maxima are exchangeable with ordinary ones.

    The number of m new maxima above the k-th largest of n is then beta-binomial: the binomial test
    with the quantile's own uncertainty. Ties count for exchangeability. That test takes blocks as
    independent; since days differ by themselves, the daily shares must differ, too (t-test).

    Args:
        maxima: (m,), m >= 1, of new blocks.
        quantiles: what `ordinary_quantiles` returned for the ordinary maxima.
        num_blocks: n, the number of those.
        blocks_per_day: to tell days.
    """
    from scipy.stats import betabinom

    found = []
    for ordinary in quantiles:
        is_above = maxima > ordinary.value
        above, reaching = int(is_above.sum()), int((maxima >= ordinary.value).sum())
        rank = _rank(ordinary.level, num_blocks)
        expected = len(maxima), rank, num_blocks + 1 - rank  # freezing it would take longer
        more, fewer = betabinom.sf(above - 1, *expected), betabinom.cdf(reaching, *expected)
        of_blocks = 2 * min(float(more), float(fewer))
        of_days = _mean_difference(ordinary.daily_shares, _daily_shares(is_above, blocks_per_day))
        p_value = min(len(quantiles) * max(of_blocks, of_days), 1.0)
        found.append(Drift(ordinary.level, above, len(maxima), p_value))
    return min(found, key=lambda drift: drift.p_value)


def _rank(level: float, num_blocks: int) -> int:
    """The k for which the k-th largest of n maxima is their quantile at this level."""
    return min(max(round((1 - level) * (num_blocks + 1)), 1), num_blocks)


def _daily_shares(flags: npt.NDArray[np.bool_], blocks_per_day: float) -> tuple[float, ...]:
    """The share of flags (n,) that are True, in each of about n / blocks_per_day equal parts."""
    num_days = max(round(len(flags) / blocks_per_day), 1)
    return tuple(float(day.mean()) for day in np.array_split(flags, min(num_days, len(flags))))


def _mean_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The p-value of Student's t-test, two-sided; 0 if two values say nothing about variation."""
    from scipy.stats import t as student

    freedom = len(one) + len(other) - 2
    if not freedom:
        return 0.0
    squares = sum(float(np.var(values)) * len(values) for values in (one, other))
    error = math.sqrt(squares / freedom * (1 / len(one) + 1 / len(other)))
    gap = abs(float(np.mean(one)) - float(np.mean(other)))
    if not error:
        return float(gap == 0)
    return float(2 * student.sf(gap / error, freedom))
