"""Fitted densities against the generating parameters, scipy and closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vigil.model.densities import (
    BACKGROUND_SHARE,
    FAMILIES,
    GEOMETRIC_BIN,
    GRID,
    candidates,
    cde_loss,
    choose,
    fit_family,
    look_up,
    scale_of,
    tabulate,
)

NUM_VALUES = 4000

TRUTH = {
    "cauchy": (stats.cauchy(0.3, 0.8), {"location": 0.3, "scale": 0.8}),
    "half_cauchy": (stats.halfcauchy(-1, 1.2), {"location": -1, "scale": 1.2}),
    "exponential": (stats.expon(-1, 1.5), {"location": -1, "scale": 1.5}),
    "gumbel": (stats.gumbel_r(-0.4, 0.8), {"location": -0.4, "scale": 0.8}),
    "gamma": (stats.gamma(3, -2, 0.8), {"a": 3, "location": -2, "scale": 0.8}),
    "half_normal": (stats.halfnorm(-1, 1.5), {"location": -1, "scale": 1.5}),
    "normal": (stats.norm(0.2, 1.1), {"location": 0.2, "scale": 1.1}),
    "student_t": (stats.t(4, 0.1, 0.8), {"df": 4, "location": 0.1, "scale": 0.8}),
    "beta": (stats.beta(2, 3, -2, 4), {"a": 2, "b": 3, "location": -2, "scale": 4}),
}
# Families that contain or approximate each one, and so may fit as well to within the noise.
KIN = {
    "cauchy": {"student_t"},
    "exponential": {"gamma", "beta", "geometric"},
    "gumbel": {"gamma", "beta"},
    "gamma": {"beta", "gumbel"},
    "half_normal": {"beta"},
    "normal": {"student_t", "gamma", "beta"},
    "geometric": {"exponential", "gamma"},
}
FLEXIBLE = {"kernel", "gaussian_mixture"}


def draw(family: str, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if family == "geometric":
        bins = generator.geometric(0.3, NUM_VALUES) - 1
        return (bins + generator.random(NUM_VALUES)) * GEOMETRIC_BIN - 1
    return TRUTH[family][0].rvs(NUM_VALUES, random_state=generator)


@pytest.mark.parametrize("family", TRUTH)
def test_a_family_recovers_the_generating_parameters(family: str) -> None:
    fitted = fit_family(family, draw(family, 0)).parameters
    expected = TRUTH[family][1]
    assert fitted.keys() == expected.keys()
    for name, value in expected.items():
        assert fitted[name] == pytest.approx(value, rel=0.15, abs=0.08), name


def test_the_geometric_family_finds_the_share_of_each_bin() -> None:
    fit = fit_family("geometric", draw("geometric", 0))
    assert fit.parameters["p"] == pytest.approx(0.3, rel=0.05)
    middles = -1 + GEOMETRIC_BIN * (np.arange(5) + 0.5)
    expected = 0.3 * 0.7 ** np.arange(5) / GEOMETRIC_BIN
    np.testing.assert_allclose(np.exp(fit.log_density(middles)), expected, rtol=0.1)


def test_the_mixture_finds_its_parts() -> None:
    generator = np.random.default_rng(0)
    parts = [generator.normal(*part) for part in ((-4, 0.5, 2000), (0, 1, 1000), (5, 0.7, 1000))]
    fitted = fit_family("gaussian_mixture", np.concatenate(parts)).parameters
    found = sorted(
        tuple(fitted[f"{name}_{number}"] for name in ("mean", "deviation", "weight"))
        for number in (1, 2, 3)
    )
    expected = [(-4, 0.5, 0.5), (0, 1, 0.25), (5, 0.7, 0.25)]
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_the_kernel_density_is_the_mean_of_its_kernels() -> None:
    values = np.random.default_rng(0).normal(size=200)
    fit = fit_family("kernel", values)
    spread = min(values.std(), stats.iqr(values) / 1.34)
    assert fit.parameters["bandwidth"] == pytest.approx(0.9 * spread / 200**0.2)
    at = np.linspace(-3, 3, 7)
    expected = [stats.norm.pdf(point, values, fit.parameters["bandwidth"]).mean() for point in at]
    np.testing.assert_allclose(np.exp(fit.log_density(at)), expected, rtol=1e-3)


@pytest.mark.parametrize("family", [*TRUTH, "geometric"])
def test_a_family_predicts_its_own_values_best(family: str) -> None:
    found = candidates(draw(family, 1), draw(family, 2))
    losses = {candidate.family: candidate.cde_loss for candidate in found}
    assert {family, "kernel"} <= losses.keys() <= set(FAMILIES)
    wrong = losses.keys() - {family} - KIN.get(family, set()) - FLEXIBLE
    assert losses[family] < min(losses[name] for name in wrong) - 1e-3
    assert losses[family] < found[0].cde_loss + 4e-3
    likelihoods = {candidate.family: candidate.log_likelihood for candidate in found}
    assert likelihoods[family] > max(likelihoods[name] for name in wrong)


@pytest.mark.parametrize("family", TRUTH)
def test_a_table_holds_scipys_density(family: str) -> None:
    distribution = TRUTH[family][0]
    table = tabulate(distribution.logpdf)
    at = np.linspace(-6, 6, 1001)
    own, background = distribution.pdf(at), stats.cauchy.pdf(at)
    expected = (1 - BACKGROUND_SHARE) * own + BACKGROUND_SHARE * background
    start = distribution.support()[0]
    smooth = np.abs(at - start) > 0.1  # between two points of the grid, a step is a ramp
    np.testing.assert_allclose(look_up(table, at)[smooth], expected[smooth], rtol=2e-2, atol=2e-4)


@given(st.floats(-2, 2), st.floats(0.3, 3))
def test_the_loss_of_the_true_normal_is_the_closed_form(mean: float, deviation: float) -> None:
    """The integral of f^2 is 1 / (2 deviation sqrt(pi)), which the mean of f approaches."""
    distribution = stats.norm(mean, deviation)
    even = distribution.ppf((np.arange(20_000) + 0.5) / 20_000)
    expected = -1 / (2 * deviation * np.sqrt(np.pi))
    assert cde_loss(distribution.pdf(GRID), even) == pytest.approx(expected, rel=5e-3)


def test_the_best_family_is_fitted_again_to_all_values() -> None:
    fitting, held_out = draw("gumbel", 1)[:500], draw("gumbel", 2)[:500]
    kept, compared = choose(fitting, held_out)
    assert kept.family == compared[0].family
    assert kept.cde_loss == compared[0].cde_loss
    again = fit_family(kept.family, np.concatenate([fitting, held_out]))
    assert kept.parameters == again.parameters
    np.testing.assert_array_equal(kept.table, tabulate(again.log_density))


@pytest.mark.parametrize("seed", range(3))
def test_degenerate_values_can_be_fitted(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mostly_one = np.where(generator.random(300) < 0.8, 0, generator.gamma(1, size=300))
    far_off = np.append(generator.normal(size=299), 1e4)
    for values in (mostly_one, far_off, generator.normal(size=4), np.zeros(4)):
        centre, unit = scale_of(values)
        scaled = (values - centre) / (unit or 1)
        kept, _ = choose(scaled[::2], scaled[1::2])
        assert np.isfinite(kept.table).all()
        assert (kept.table > 0).all()
        assert np.trapezoid(kept.table, GRID) == pytest.approx(1, abs=0.05)


def test_the_scale_of_a_statistic() -> None:
    values = stats.norm.ppf((np.arange(10_001) + 0.5) / 10_001, 5, 3)
    assert scale_of(values) == pytest.approx((5, 3), rel=1e-3)
    assert scale_of(np.full(9, 7.0)).unit == 0
    mostly_one = np.append(np.zeros(99), 100.0)
    assert scale_of(mostly_one).unit == pytest.approx(0.03 * mostly_one.std())
