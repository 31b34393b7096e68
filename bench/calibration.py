"""`python -m bench.calibration`: alarms asked of `vigil calibrate` against alarms got afterwards.

Cameras are processes of scores: autocorrelated noise about a level of the camera's own, a cycle of
24 hours, and bursts of activity. The first days of each camera are calibrated as the command does
it; the days that follow are counted. In one kind of cameras the days are alike; in the other, each
day has a level of its own as weather has, so that blocks of a day depend on each other.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.signal import lfilter
from scipy.special import expit

from bench.table import markdown
from vigil.pipeline.calibration import DAY_SECONDS, CalibratedThreshold, Calibration
from vigil.pipeline.options import CalibrateOptions
from vigil.pipeline.scores.alarm_rate import Recording, block_maxima, find_drift
from vigil.pipeline.scores.events import true_runs
from vigil.pipeline.scores.metrics import FloatArray
from vigil.pipeline.scoring.calibrate import calibrate
from vigil.pipeline.scoring.thresholds import DRIFT_P_VALUE

SEGMENT_SECONDS = 5
NOISE_SECONDS = 30.0
"""Time in which the noise's autocorrelation falls to 1/e."""
BURSTS_PER_DAY, BURST_SECONDS = 30.0, 60.0
DAY_EFFECTS = {"alike": 0.0, "differ": 0.3}
"""Deviation of the days' levels, as a share of the noise's."""
SHIFT = 1.0
"""Drift to be found: the noise's level rises by this share of its deviation."""
PER_DAY = int(DAY_SECONDS / SEGMENT_SECONDS)


@dataclass(frozen=True)
class Options:
    """Count the alarms of calibrated cameras on later days, and print a table."""

    seeds: int = 20
    """Number of draws of all cameras."""
    cameras: int = 5
    """Cameras in each draw."""
    days: tuple[int, ...] = (2, 7, 14)
    """Days of ordinary footage of each camera."""
    later_days: int = 7
    """Days that are counted."""
    long_days: int = 100
    """Days after these, whose rate stands for that in the long run."""
    alarms_per_day: tuple[float, ...] = (1, 5, 20)
    """Rates to ask for."""


@dataclass(frozen=True)
class Counted:
    """What one camera did on later days."""

    own: float
    """Blocks with an alarm a day, at the camera's own threshold."""
    overall: float
    """The same at the threshold of all cameras."""
    events: float
    """Runs of segments from the own threshold up, a day."""
    promised: bool
    """Whether the rate over many more days is in the 95 % interval of the calibration."""
    drifts: bool
    """Whether a drift is reported, without one."""
    finds_shift: bool
    """Whether a drift is reported after a shift."""


def draw_scores(rng: np.random.Generator, num_days: int, day_effect: float) -> FloatArray:
    """(num_days * PER_DAY,) log-odds of one camera's segments."""
    number = num_days * PER_DAY
    kept = np.exp(-SEGMENT_SECONDS / NOISE_SECONDS)
    noise = lfilter([np.sqrt(1 - kept**2)], [1, -kept], rng.standard_normal(number))
    time = np.arange(number) / PER_DAY
    cycle = rng.uniform(0.2, 0.8) * np.sin(2 * np.pi * (time + rng.random()))
    days = day_effect * rng.standard_normal(num_days).repeat(PER_DAY)
    bursts = np.zeros(number)
    for start in rng.integers(0, number, rng.poisson(BURSTS_PER_DAY * num_days)):
        length = 1 + int(rng.exponential(BURST_SECONDS / SEGMENT_SECONDS))
        bursts[start : start + length] += rng.exponential(1.5)
    return np.asarray(rng.normal(-3, 0.5) + noise + cycle + days + bursts)


def recording(log_odds: FloatArray) -> Recording:
    """A recording with these scores."""
    starts = np.arange(len(log_odds)) * float(SEGMENT_SECONDS)
    return Recording(expit(log_odds), np.stack([starts, starts + SEGMENT_SECONDS], axis=1))


def count(
    later: FloatArray, many: FloatArray, own: CalibratedThreshold, calibration: Calibration
) -> Counted:
    """Count the alarms of a camera in later log-odds, and in the maxima of many blocks."""
    scores = recording(later)
    maxima, _ = block_maxima([scores], calibration.block_seconds)
    shifted, _ = block_maxima([recording(later + SHIFT)], calibration.block_seconds)
    num_days = len(later) / PER_DAY
    threshold, overall = own.threshold, calibration.overall.threshold
    assert threshold is not None
    assert overall is not None
    assert own.alarms_per_day_low is not None
    assert own.alarms_per_day_high is not None
    per_day = DAY_SECONDS / calibration.block_seconds
    long_run = per_day * float((many >= threshold).mean())

    def drifts(found: FloatArray) -> bool:
        drift = find_drift(found, own.quantiles, own.num_blocks, per_day)
        return drift.p_value < DRIFT_P_VALUE

    return Counted(
        own=int((maxima >= threshold).sum()) / num_days,
        overall=int((maxima >= overall).sum()) / num_days,
        events=len(true_runs(scores.scores >= threshold)) / num_days,
        promised=own.alarms_per_day_low <= long_run <= own.alarms_per_day_high,
        drifts=drifts(maxima),
        finds_shift=drifts(shifted),
    )


def measure(options: Options, num_days: int, day_effect: float) -> dict[float, list[Counted]]:
    """Asked rate -> what each camera of each seed did."""
    found: dict[float, list[Counted]] = {asked: [] for asked in options.alarms_per_day}
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        cameras = {
            f"camera{index}": draw_scores(
                rng, num_days + options.later_days + options.long_days, day_effect
            )
            for index in range(options.cameras)
        }
        ordinary = {
            f"{name}/{day}.mp4": recording(log_odds[day * PER_DAY : (day + 1) * PER_DAY])
            for name, log_odds in cameras.items()
            for day in range(num_days)
        }
        later, long = num_days * PER_DAY, (num_days + options.later_days) * PER_DAY
        block_seconds = CalibrateOptions.block_seconds
        many = {
            name: block_maxima([recording(scores[long:])], block_seconds)[0]
            for name, scores in cameras.items()
        }
        for asked, counted in found.items():
            settings = CalibrateOptions(Path(), (), Path(), alarms_per_day=asked)
            calibration = calibrate(ordinary, settings, ("center",))
            counted += [
                count(scores[later:long], many[name], calibration.cameras[name], calibration)
                for name, scores in cameras.items()
            ]
    return found


def rows(days: str, num_days: int, found: Mapping[float, list[Counted]]) -> Iterator[list[str]]:
    """A row of the table for each asked rate."""
    for asked, counted in found.items():
        own = np.array([one.own for one in counted])
        low, high = np.quantile(own, [0.025, 0.975])
        yield [
            days,
            str(num_days),
            f"{asked:g}",
            f"{own.mean():.2f}",
            f"{low:.1f} to {high:.1f}",
            f"{np.mean([one.promised for one in counted]):.0%}",
            f"{np.mean([one.events for one in counted]):.2f}",
            f"{np.mean([one.overall for one in counted]):.2f}",
            f"{np.mean([one.drifts for one in counted]):.1%}",
            f"{np.mean([one.finds_shift for one in counted]):.0%}",
        ]


def main(options: Options) -> None:
    """Print the table."""
    logging.getLogger("vigil").setLevel(logging.ERROR)
    lines = [
        row
        for days, effect in DAY_EFFECTS.items()
        for num_days in options.days
        for row in rows(days, num_days, measure(options, num_days, effect))
    ]
    header = (
        *("days", ">calibrated", ">asked", ">got, mean", ">got, 95 % of cameras", ">in interval"),
        *(">events", ">got by all cameras' threshold", ">false drift", ">drift found"),
    )
    print(markdown(header, lines))


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m bench.calibration"))
