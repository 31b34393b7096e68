"""Densities of one statistic: twelve families fitted to values, and the choice among them.

The families are those of Bameri's program (see `model.distribution`), which sets their parameters
by hand. Here they are fitted on a scale on which the statistic has median 0 and the spread of a
standard normal, and the one with the lowest conditional-density loss on held-out values is used:
Dalmasso, Pospisil, Lee, Izbicki, Freeman and Malz, "Conditional density estimation tools in Python
and R", Astronomy and Computing 30, 2020.

Every density is tabulated on one grid, and families are compared by these tables, because only the
tables are used afterwards.

Legend: N values, G points of the grid.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

Values = npt.NDArray[np.float64]

# The grid is uniform in asinh(value): 0.02 apart at the middle, and wide enough for tails.
GRID_SIZE = 512
GRID_REACH = 100.0
GRID_LIMIT = float(np.arcsinh(GRID_REACH))
GRID: Values = np.sinh(np.linspace(-GRID_LIMIT, GRID_LIMIT, GRID_SIZE))

# Every density contains this share of a standard Cauchy density, because a value that a family
# rules out may only be rare. It bounds the logarithms and the influence of one statistic.
BACKGROUND_SHARE = 0.01
# Values are blurred by this much, so that a frequent value (0, after a ReLU) gives a narrow peak
# instead of an infinite one.
BLUR = 0.02

GEOMETRIC_BIN = 0.25
MIXTURE_SIZE = 3
KERNEL_TOLERANCE = 1e-4

# How far the mass of a table may be from 1: it may lack tails, or distort a pole or a narrow peak.
MASS_TOLERANCE = 0.05

CONTINUOUS = {
    "cauchy": stats.cauchy,
    "half_cauchy": stats.halfcauchy,
    "exponential": stats.expon,
    "gumbel": stats.gumbel_r,
    "gamma": stats.gamma,
    "half_normal": stats.halfnorm,
    "normal": stats.norm,
    "student_t": stats.t,
    "beta": stats.beta,
}
FAMILIES = (*CONTINUOUS, "geometric", "kernel", "gaussian_mixture")


class Fit(NamedTuple):
    """A density of a family with parameters fitted to some values."""

    parameters: dict[str, float]
    log_density: Callable[[Values], Values]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A fitted family, and how well it predicts held-out values."""

    family: str
    parameters: Mapping[str, float]
    table: Values
    """(G,) density at the points of the grid."""
    cde_loss: float
    """Squared error of the density up to a constant of the true one; lower is better."""
    log_likelihood: float
    """Mean over held-out values; higher is better."""


class Scale(NamedTuple):
    """Centre and unit of a statistic; a unit of 0 means that it is constant."""

    centre: float
    unit: float


def scale_of(values: Values) -> Scale:
    """The median of values (N,), and the deviation of a normal with their interquartile range.

    The unit is at least 0.03 of their deviation, so that the grid still holds the other values if
    most are equal.
    """
    low, centre, high = np.quantile(values, (0.25, 0.5, 0.75))
    unit = max((high - low) / 1.349, 0.03 * float(values.std()))
    return Scale(float(centre), float(unit if unit > 1e-6 * abs(centre) else 0.0))


def fit_family(family: str, values: Values, seed: int = 0) -> Fit:
    """Fit a family's density to values (N,) on the standard scale by maximum likelihood.

    Raises:
        ValueError: the family does not admit the values.
        ArithmeticError, RuntimeError: no maximum was found.
    """
    if family == "geometric":
        return _fit_geometric(values)
    if family == "kernel":
        return _fit_kernel(values)
    if family == "gaussian_mixture":
        return _fit_mixture(values, seed)
    distribution = CONTINUOUS[family]
    start, known = _beta_start(values) if family == "beta" else ((), {})
    fitted = distribution.fit(values, *start, **known)
    if not np.isfinite(fitted).all():
        raise ValueError(f"{family} has no finite parameters for these values")
    shapes = distribution.shapes.split(", ") if distribution.shapes else []
    names = [*shapes, "location", "scale"]
    return Fit(dict(zip(names, map(float, fitted), strict=True)), distribution(*fitted).logpdf)


def _beta_start(values: Values) -> tuple[tuple[float, float], dict[str, float]]:
    """Start of the search: the shapes of highest likelihood for bounds just outside the values.

    With free bounds only a local maximum is sought, because the likelihood grows without limit as
    a bound approaches a value. N uniform values fall short of a bound by range / (N - 1).
    """
    span = float(np.ptp(values))
    margin = span / (len(values) - 1)
    location, scale = float(values.min()) - margin, span + 2 * margin
    a, b, _, _ = stats.beta.fit(values, floc=location, fscale=scale)
    return (a, b), {"loc": location, "scale": scale}


def _fit_geometric(values: Values) -> Fit:
    """Fit a discrete family to the numbers of bins, from 1; density is uniform within a bin."""
    start = float(values.min())

    def bins(of: Values) -> Values:
        return np.floor((of - start) / GEOMETRIC_BIN) + 1

    success = float(1 / bins(values).mean())  # the maximum of the likelihood
    return Fit(
        {"p": success, "start": start, "bin": GEOMETRIC_BIN},
        lambda of: stats.geom.logpmf(bins(of), success) - np.log(GEOMETRIC_BIN),
    )


def _fit_kernel(values: Values) -> Fit:
    """A Gaussian kernel with Silverman's bandwidth (Density Estimation, 1986, formula 3.31)."""
    spread = min(float(values.std()), float(stats.iqr(values)) / 1.34)
    bandwidth = max(0.9 * spread * len(values) ** -0.2, BLUR)
    kernel = KernelDensity(bandwidth=bandwidth, rtol=KERNEL_TOLERANCE).fit(values[:, None])
    return Fit({"bandwidth": bandwidth}, lambda of: kernel.score_samples(of[:, None]))


def _fit_mixture(values: Values, seed: int) -> Fit:
    mixture = GaussianMixture(MIXTURE_SIZE, random_state=seed, reg_covar=BLUR**2)
    mixture.fit(values[:, None])
    deviations = np.sqrt(mixture.covariances_.ravel())
    parts = zip(mixture.weights_, mixture.means_.ravel(), deviations, strict=True)
    parameters = {
        f"{name}_{number}": float(value)
        for number, part in enumerate(parts, start=1)
        for name, value in zip(("weight", "mean", "deviation"), part, strict=True)
    }
    return Fit(parameters, lambda of: mixture.score_samples(of[:, None]))


def tabulate(log_density: Callable[[Values], Values]) -> Values:
    """The density (G,) at the points of the grid, including its share of background."""
    own, background = np.exp(log_density(GRID)), stats.cauchy.pdf(GRID)
    table: Values = (1 - BACKGROUND_SHARE) * own + BACKGROUND_SHARE * background
    return table


def look_up(table: Values, values: Values) -> Values:
    """The density (N,) of values from a table (G,); beyond the grid, that at its end."""
    found: Values = np.interp(np.arcsinh(values), np.arcsinh(GRID), table)
    return found


def cde_loss(table: Values, held_out: Values) -> float:
    """The integral of the squared density less twice its mean over held-out values (N,)."""
    squared = np.trapezoid(table**2, GRID)
    return float(squared - 2 * look_up(table, held_out).mean())


def candidates(fitting: Values, held_out: Values, seed: int = 0) -> list[Candidate]:
    """All families that could be fitted to values on the standard scale, the best first.

    If there are none, the result is a standard Cauchy density.
    """
    found = [
        candidate
        for family in FAMILIES
        if (candidate := _candidate(family, fitting, held_out, seed)) is not None
    ]
    if not found:
        table = stats.cauchy.pdf(GRID)
        found.append(_compared("cauchy", {"location": 0.0, "scale": 1.0}, table, held_out))
    return sorted(found, key=lambda candidate: candidate.cde_loss)


def choose(fitting: Values, held_out: Values, seed: int = 0) -> tuple[Candidate, list[Candidate]]:
    """The best family, refitted to all values, and all candidates as they were compared."""
    compared = candidates(fitting, held_out, seed)
    best = compared[0]
    again = _candidate(best.family, np.concatenate([fitting, held_out]), held_out, seed)
    if again is None:
        return best, compared
    # Keep the losses on unseen values, because only they measure the family's quality.
    kept = replace(again, cde_loss=best.cde_loss, log_likelihood=best.log_likelihood)
    return kept, compared


def _candidate(family: str, fitting: Values, held_out: Values, seed: int) -> Candidate | None:
    """Fit and evaluate a family; None if it cannot be fitted, or not tabulated on the grid."""
    # The searches for a maximum pass through invalid parameters and warn about them.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            parameters, log_density = fit_family(family, fitting, seed)
        except (ArithmeticError, ValueError, RuntimeError):
            return None
        table = tabulate(log_density)
        mass = float(np.trapezoid(table, GRID))
    if not abs(mass - 1) < MASS_TOLERANCE:  # also if it is NaN, at a pole
        return None
    return _compared(family, parameters, table, held_out)


def _compared(
    family: str, parameters: Mapping[str, float], table: Values, held_out: Values
) -> Candidate:
    log_likelihood = float(np.log(look_up(table, held_out)).mean())
    return Candidate(family, parameters, table, cde_loss(table, held_out), log_likelihood)


def describe(candidate: Candidate) -> dict[str, Any]:
    """A candidate in the form of JSON."""
    return {
        "family": candidate.family,
        "parameters": dict(candidate.parameters),
        "cde_loss": candidate.cde_loss,
        "log_likelihood": candidate.log_likelihood,
    }
