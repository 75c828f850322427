"""Power-law fits: coverage by simulation, independent fits, rivals, points that are not positive, bad tables."""

import dataclasses
import io

import numpy as np
import polars as pl
import pytest
from scipy import optimize

from l2m.errors import clustered, resamples, small_sample_stretch
from l2m.ranking import EXPONENTS, LAWS, RANKED, Ranking, Standing, error_covariance, rank_laws, ranking_of
from l2m.scaling import (
    NUMBERS,
    exponent_in_words,
    fit_laws,
    fit_on_plain_axes,
    fit_power_law,
    smooth_errors,
    weighted_line,
)

LENGTHS = 4 * 2 ** np.arange(9)
A, BETA = 2.27, 0.76
TRUTHS = {
    "power law": lambda L: 2 * L**0.6,
    "logarithm": lambda L: 4 + 9 * np.log(L / 4),
    "power law + offset": lambda L: 1.1 * L**0.66 + 6,
    "saturation": lambda L: 60 - 100 * L**-0.4,
}


def table_of(terms, sizes, rng, draws=400, lengths=LENGTHS):
    """Estimate table of documents with terms [groups, lengths], each counted `sizes` times (its pairs)."""
    groups = len(terms)
    counted = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws) * sizes
    replicates = counted @ terms / counted.sum(1, keepdims=True)
    return pl.DataFrame(
        {
            "length": lengths,
            "mi": sizes @ terms / sizes.sum(),
            "stderr": replicates.std(0, ddof=1) * np.sqrt(groups / (groups - 1)),
            "n": int(sizes.sum()),
            "groups": groups,
            "replicates": replicates.T.tolist(),
        }
    )


def simulate(
    rng,
    groups,
    law=lambda L: A * L**BETA,
    noise=0.35,
    memory=0.8,
    haze=0.0,
    kind="gaussian",
    uneven=False,
    draws=400,
    lengths=LENGTHS,
):
    gaps = np.abs(np.subtract.outer(range(len(lengths)), range(len(lengths))))
    deviation = noise * rng.multivariate_normal(np.zeros(len(lengths)), memory**gaps, size=groups)
    factor = 1 + deviation if kind == "gaussian" else np.exp(deviation - noise**2 / 2)
    terms = law(np.asarray(lengths, float)) * factor + haze * rng.normal(size=deviation.shape)
    sizes = rng.integers(1, 4, groups) if uneven else np.ones(groups, int)
    return table_of(terms, sizes, rng, draws, lengths)


def spoilt(column, row, value):
    "A table with one wrong entry."
    return lambda t: t.with_columns(
        pl.when(pl.int_range(len(t)) == row).then(pl.lit(value, t[column].dtype)).otherwise(column).alias(column)
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def table(rng):
    return simulate(rng, 32)


# ---- coverage -------------------------------------------------------------------------------------------------


def covers(fit, exponent=BETA, amplitude=A):
    return fit.interval[0] <= exponent <= fit.interval[1], fit.amplitude_interval[
        0
    ] <= amplitude <= fit.amplitude_interval[1]


CASES = [
    dict(),
    dict(memory=0.3),
    dict(memory=0.98),
    dict(kind="lognormal"),
    dict(uneven=True),
    dict(haze=25.0),
    dict(haze=8.0, lengths=LENGTHS[::4]),
]


@pytest.mark.parametrize("groups", [8, 24, 64])
@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: ", ".join(f"{k}={v}" for k, v in case.items() if k != "lengths") or "plain"
)
def test_intervals_contain_the_truth_as_often_as_they_claim(groups, case):
    """Within 90 and 99 %: a coverage outside lies two binomial errors of these experiments outside."""
    tables = [simulate(np.random.default_rng([groups, i]), groups, draws=250, **case) for i in range(150)]
    for share in np.mean([covers(fit_power_law(table)) for table in tables], axis=0):
        assert 0.90 - 2 * np.sqrt(0.90 * 0.10 / 150) <= share <= 0.99 + 2 * np.sqrt(0.99 * 0.01 / 150)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
def test_other_exponents_are_covered_too(beta):
    tables = [simulate(np.random.default_rng(i), 16, lambda L: A * L**beta, haze=2.0, draws=250) for i in range(150)]
    for share in np.mean([covers(fit_power_law(table), beta) for table in tables], axis=0):
        assert 0.90 - 2 * np.sqrt(0.90 * 0.10 / 150) <= share <= 0.99 + 2 * np.sqrt(0.99 * 0.01 / 150)


UNEVEN = 64 // 2 ** np.arange(4)  # documents at each of four lengths, the longest in eight


def in_fewer_documents_where_long(rng, noise=0.35, memory=0.8, draws=250):
    "The first documents are read to the end, the others less far: draws among those that reach equally far"
    lengths = LENGTHS[::2][:4]
    gaps = np.abs(np.subtract.outer(range(4), range(4)))
    terms = A * lengths**BETA * (1 + noise * rng.multivariate_normal(np.zeros(4), memory**gaps, size=UNEVEN[0]))
    reach = (np.arange(UNEVEN[0])[:, None] < UNEVEN).sum(1)
    weights = resamples(np.arange(UNEVEN[0]), reach, draws, int(rng.integers(2**31)))
    found = [clustered(terms[:n, i], np.arange(n), weights[:, :n]) for i, n in enumerate(UNEVEN)]
    return pl.DataFrame(
        [
            dict(length=int(L), mi=f[0], stderr=f[1], groups=f[2], replicates=f[3].tolist())
            for L, f in zip(lengths, found)
        ]
    )


def test_lengths_with_documents_of_their_own_are_covered_too():
    "Each length is stretched by its own documents: wider than by the most of them, narrower than by the fewest"
    tables = [in_fewer_documents_where_long(np.random.default_rng([3, i])) for i in range(200)]
    fits = [fit_power_law(table) for table in tables]
    for share in np.mean([covers(fit) for fit in fits], axis=0):
        assert 0.90 - 2 * np.sqrt(0.90 * 0.10 / 200) <= share <= 0.99 + 2 * np.sqrt(0.99 * 0.01 / 200)
    assert {fit.groups for fit in fits} == {8}
    by = lambda groups: np.ptp(fit_power_law(tables[0].with_columns(groups=groups)).interval)
    assert by(64) < np.ptp(fits[0].interval) < by(8)


@pytest.mark.parametrize("kind", [pl.DataFrame, pl.DataFrame.to_pandas], ids=["polars", "pandas"])
def test_estimates_and_errors_are_enough(table, kind):
    "Independent errors: the textbook's interval of a weighted line, and a note; the other columns of pandas count too"
    bare = fit_power_law(kind(table.select("length", "mi", "stderr")))
    design = (
        np.stack([np.ones(9), np.log(LENGTHS)], 1)
        * (bare.predict(LENGTHS) / smooth_errors(LENGTHS, bare.stderr))[:, None]
    )
    independent = (
        np.linalg.inv(design.T @ design)
        @ (design.T * (bare.stderr / smooth_errors(LENGTHS, bare.stderr)) ** 2)
        @ design
        @ np.linalg.inv(design.T @ design)
    )
    assert np.std(bare.draws[:, 1]) == pytest.approx(np.sqrt(independent[1, 1]), rel=0.06)
    assert bare.exponent == fit_power_law(table).exponent and bare.groups is None and "no replicates" in bare.notes[0]
    told = fit_power_law(kind(table.select("length", "mi", "stderr", "groups")))
    assert told.groups == 32 and np.ptp(told.interval) == pytest.approx(
        small_sample_stretch(32) * np.ptp(bare.interval), rel=0.02
    )
    whole, same = fit_power_law(table), fit_power_law(kind(table))
    assert same.interval == whole.interval and same.notes == whole.notes == ()
    laws = fit_laws(kind(table.select("length", "mi", "stderr").with_columns(method=pl.lit("mine"))))
    assert laws["exponent"].to_list() == [bare.exponent] and "no replicates" in laws["notes"][0]


def test_smooth_weights_mend_the_coverage_of_lumpy_documents():
    """Information in lumps, drawn anew at each length: weights from single errors cover less than smoothed ones, by more than chance."""
    single, smoothed, stretch = [], [], small_sample_stretch(8)
    for i in range(400):
        rng = np.random.default_rng(i)
        terms = (
            A * LENGTHS**BETA * np.exp(0.9 * rng.normal(size=(8, 9)) - 0.4) + 6 * rng.standard_exponential((8, 9)) - 6
        )
        table = table_of(terms, np.ones(8, int), rng, draws=250)
        mi, stderr = table["mi"].to_numpy(), table["stderr"].to_numpy()
        draws = mi + stretch * (np.stack(table["replicates"].to_numpy(), 1) - mi)
        low, high = np.quantile(fit_on_plain_axes(LENGTHS, draws, stderr)[1], [0.025, 0.975])
        single.append(low <= BETA <= high)
        smoothed.append(covers(fit_power_law(table))[0])
    difference = np.subtract(smoothed, single, dtype=float)
    assert difference.mean() > 2 * difference.std() / np.sqrt(400)


def test_a_ninety_percent_interval_is_one():
    fits = [fit_power_law(simulate(np.random.default_rng(i), 20), level=0.9) for i in range(400)]
    share = np.mean([f.interval[0] <= BETA <= f.interval[1] for f in fits])
    assert abs(share - 0.9) < 0.02 + 3 * np.sqrt(0.9 * 0.1 / 400)


def test_plain_percentiles_would_not_do_for_few_documents():
    stretch, plain = small_sample_stretch(6), []
    for i in range(400):
        fit = fit_power_law(simulate(np.random.default_rng(i), 6, noise=0.2))
        low, high = fit.exponent + (np.array(fit.interval) - fit.exponent) / stretch
        plain.append(low <= BETA <= high)
    assert np.mean(plain) < 0.90


def test_an_interval_with_independent_lengths_would_be_wrong(rng):
    """Shuffling the draws of every length on its own keeps the errors and loses how they go together."""
    table = simulate(rng, 32, memory=0.95)
    fit = fit_power_law(table)
    shuffled = fit_power_law(
        table.with_columns(replicates=pl.Series([rng.permutation(r).tolist() for r in table["replicates"]]))
    )
    assert shuffled.exponent == fit.exponent
    assert shuffled.draws[:, 0].std() < 0.75 * fit.draws[:, 0].std()


# ---- the fit --------------------------------------------------------------------------------------------------


def test_fit_agrees_with_curve_fit_under_smoothed_errors(table):
    fit = fit_power_law(table)
    errors = np.exp(np.polyval(np.polyfit(np.log(LENGTHS), np.log(table["stderr"]), 1), np.log(LENGTHS)))
    assert smooth_errors(LENGTHS, table["stderr"].to_numpy()) == pytest.approx(errors)
    found = optimize.curve_fit(
        lambda L, a, b: a * L**b, LENGTHS, fit.mi, p0=(A, BETA), sigma=errors, xtol=1e-13, ftol=1e-13
    )[0]
    assert (fit.amplitude, fit.exponent) == pytest.approx(found, rel=1e-6) and fit.notes == ()
    assert fit.predict([64, 100]) == pytest.approx(found[0] * np.array([64, 100]) ** found[1], rel=1e-5)


def test_smoothing_keeps_errors_on_a_line_and_levels_the_luck_of_one(rng):
    straight = 0.3 * LENGTHS**0.6
    assert smooth_errors(LENGTHS, straight) == pytest.approx(straight)
    assert smooth_errors(LENGTHS[:2], [1.0, 5.0]) == pytest.approx([1.0, 5.0])
    lucky = straight * np.where(LENGTHS == 64, 0.2, 1)
    assert (np.abs(np.log(smooth_errors(LENGTHS, lucky) / straight)) < 0.25).all()


def test_weighted_line_agrees_with_polyfit(rng):
    x, y, weights = np.log(LENGTHS), rng.normal(size=(3, 9)), rng.random(9)
    for row, intercept, slope in zip(y, *weighted_line(x, y, weights)):
        assert np.polyfit(x, row, 1, w=np.sqrt(weights)) == pytest.approx([slope, intercept])


def test_every_draw_is_stretched_and_refitted(table):
    fit, stretch = fit_power_law(table), small_sample_stretch(32)
    errors = smooth_errors(LENGTHS, fit.stderr)
    for i in (0, 7, 399):
        stretched = fit.mi + stretch * (fit.replicates[i] - fit.mi)
        found = optimize.curve_fit(
            lambda L, a, b: a * L**b, LENGTHS, stretched, p0=(A, BETA), sigma=errors, xtol=1e-13, ftol=1e-13
        )[0]
        assert fit.draws[i] == pytest.approx(found, rel=1e-5)
    assert fit.interval == pytest.approx(np.quantile(fit.draws[:, 1], [0.025, 0.975]))
    assert fit.covariance == pytest.approx(np.cov(fit.draws.T))


@pytest.mark.parametrize("b", [-1.3, 0.1, 0.76, 1.7])
def test_plain_fit_agrees_with_curve_fit_on_every_draw(rng, b):
    stderr = 0.05 * LENGTHS**0.4
    draws = 3 * (LENGTHS / 64.0) ** b + stderr * rng.normal(size=(30, 9))
    amplitudes, exponents = fit_on_plain_axes(LENGTHS, draws, stderr)
    for y, amplitude, exponent in zip(draws, amplitudes, exponents):
        found = optimize.curve_fit(
            lambda L, c, b: c * (L / 64) ** b, LENGTHS, y, p0=(3, b), sigma=stderr, xtol=1e-13, ftol=1e-13
        )[0]
        assert (amplitude * 64**exponent, exponent) == pytest.approx(found, rel=1e-5, abs=1e-6)


def test_noise_free_points_give_the_law_back(table):
    exact = A * LENGTHS**BETA
    draws = exact * (1 + 1e-6 * np.random.default_rng(0).normal(size=(400, 9)))
    fit = fit_power_law(table.with_columns(mi=pl.Series(exact), replicates=pl.Series(draws.T.tolist())))
    assert (fit.amplitude, fit.exponent) == pytest.approx((A, BETA), rel=1e-6)
    low, high = fit.band([8, 1_000_000])
    assert (low < fit.predict([8, 1_000_000])).all() and (fit.predict([8, 1_000_000]) < high).all()


def test_units_and_row_order_do_not_matter(table):
    fit = fit_power_law(table)
    bits = table.with_columns(
        pl.col("mi") / np.log(2), pl.col("stderr") / np.log(2), pl.col("replicates").list.eval(pl.element() / np.log(2))
    )
    other = fit_power_law(bits.sample(fraction=1, shuffle=True, seed=1))
    assert (other.exponent, *other.interval) == pytest.approx((fit.exponent, *fit.interval), rel=1e-6)
    assert other.amplitude == pytest.approx(fit.amplitude / np.log(2), rel=1e-6)
    assert other.ranking.table["law"].to_list() == fit.ranking.table["law"].to_list()


def test_min_length_fits_only_the_tail(table):
    fit = fit_power_law(table, min_length=32)
    assert fit.lengths == tuple(LENGTHS[3:].tolist())
    assert fit.exponent == fit_power_law(table.filter(pl.col("length") >= 32)).exponent != fit_power_law(table).exponent


def test_band_opens_away_from_the_points_and_holds_the_level(table):
    fit = fit_power_law(table)
    low, high = fit.band([64, 10**6])
    assert np.log(high / low)[1] > 1.5 * np.log(high / low)[0]
    laws = fit.draws[:, 0] * 64 ** fit.draws[:, 1]
    assert np.mean((laws >= low[0]) & (laws <= high[0])) == pytest.approx(0.95, abs=0.01)


def test_how_it_prints(table):
    fit = fit_power_law(table)
    assert str(fit) == f"{fit.amplitude:.2f}·L^{fit.exponent:.2f} [{fit.interval[0]:.2f}, {fit.interval[1]:.2f}]"
    assert repr(fit).startswith(f"PowerLaw({fit}, level=0.95, L=4…1024, groups=32")
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.exponent = 1.0


def test_higher_levels_are_wider(table):
    widths = [np.diff(fit_power_law(table, level=level).interval)[0] for level in (0.5, 0.8, 0.95)]
    assert widths[0] < widths[1] < widths[2]


# ---- points that are not positive ------------------------------------------------------------------------------


def test_a_negative_estimate_stays_in_the_fit(table):
    shift = table["mi"][0] + 0.5
    low = table.with_columns(
        mi=pl.when(pl.col("length") == 4).then(pl.col("mi") - shift).otherwise("mi"),
        replicates=pl.when(pl.col("length") == 4)
        .then(pl.col("replicates").list.eval(pl.element() - shift))
        .otherwise("replicates"),
    )
    fit = fit_power_law(low)
    mi, stderr = low["mi"].to_numpy(), smooth_errors(LENGTHS, low["stderr"].to_numpy())
    found = optimize.curve_fit(
        lambda L, a, b: a * L**b, LENGTHS, mi, p0=(A, BETA), sigma=stderr, xtol=1e-13, ftol=1e-13
    )[0]
    assert fit.lengths == tuple(LENGTHS.tolist()) and (fit.amplitude, fit.exponent) == pytest.approx(found, rel=1e-5)
    assert fit.notes == ("estimates that are not positive: L = 4; they count as they are",)
    assert fit.exponent > fit_power_law(low, min_length=8).exponent + 1e-4  # dropping the point would change the answer


def test_negative_draws_do_not_choose_another_fit(table):
    """One draw below zero among 400: the estimate and its interval hardly move, and nothing is noted."""
    rows = [list(r) for r in table["replicates"]]
    rows[1][5] = -0.1
    fit, other = fit_power_law(table), fit_power_law(table.with_columns(replicates=pl.Series(rows)))
    assert (other.exponent, other.amplitude, other.notes) == (fit.exponent, fit.amplitude, ())
    assert other.interval == pytest.approx(fit.interval, abs=0.05 * np.diff(fit.interval)[0])


def test_the_number_of_draws_does_not_choose_another_fit(rng):
    """Ever more draws, some below zero at last: the same estimate."""
    terms = 0.5 * LENGTHS**0.6 + 1.2 * rng.normal(size=(24, 9))
    tables = [table_of(terms, np.ones(24, int), np.random.default_rng(1), draws) for draws in (40, 400, 4000)]
    below = [any(min(row) < 0 for row in table["replicates"]) for table in tables]
    fits = [fit_power_law(table.with_columns(stderr=tables[0]["stderr"])) for table in tables]
    assert not below[0] and below[-1]
    assert len({(fit.exponent, fit.amplitude, fit.notes) for fit in fits}) == 1


def test_pure_noise_gives_a_wide_interval_and_says_so(rng):
    fit = fit_power_law(simulate(rng, 16, law=lambda L: 0 * L, haze=1.0))
    assert fit.amplitude_interval[0] < 1e-3
    assert fit.interval[1] - fit.interval[0] > 1 and "hardly a law" in fit.notes[-1]
    assert (
        len(fit.ranking.leaders) > 1 and "cannot tell" in fit.verdict and EXPONENTS[0] <= fit.exponent <= EXPONENTS[1]
    )


# ---- rivals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("groups", [12, 32, 64])
def test_with_little_noise_the_right_law_comes_first(name, groups):
    for seed in range(5):
        fit = fit_power_law(simulate(np.random.default_rng([seed, groups]), groups, TRUTHS[name], noise=0.03))
        ranking = fit.ranking.table
        if name in ("power law", "logarithm"):  # laws with an offset come close to these as near as one likes
            assert ranking.filter(pl.col("law") == name)["status"][0] != "ruled out"
            assert (
                ranking.filter(pl.col("law") == {"power law": "logarithm", "logarithm": "power law"}[name])["status"][0]
                == "ruled out"
            )
        else:
            assert fit.ranking.best == name and f"{name[1:]} describes the points best" in fit.verdict
            assert ranking.filter(pl.col("law") == "power law")["status"][0] == "ruled out"


@pytest.mark.parametrize("name", ["power law", "logarithm"])
def test_the_true_simple_law_usually_wins(name):
    won = [
        fit_power_law(simulate(np.random.default_rng(i), 48, TRUTHS[name], noise=0.1)).ranking.best == name
        for i in range(60)
    ]
    assert np.mean(won) > 0.8


@pytest.mark.parametrize("name", TRUTHS)
def test_with_much_noise_the_data_cannot_tell(name):
    rankings = [
        fit_power_law(simulate(np.random.default_rng(i), 16, TRUTHS[name], haze=250.0)).ranking for i in range(10)
    ]
    assert np.mean([len(ranking.leaders) > 1 for ranking in rankings]) >= 0.8


@pytest.mark.parametrize("groups", [12, 16, 24, 40])
def test_a_true_law_is_not_ruled_out_and_its_p_value_is_one(groups):
    rows = [
        fit_power_law(simulate(np.random.default_rng([3, i]), groups))
        .ranking.table.filter(pl.col("law") == "power law")
        .to_dicts()[0]
        for i in range(120)
    ]
    assert np.mean([row["status"] in ("best", "not told apart") for row in rows]) > 0.9
    assert not any(row["status"] == "ruled out" for row in rows)
    assert np.mean([row["p_value"] < 0.05 for row in rows]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)


def test_chi2_agrees_with_curve_fit_under_the_full_covariance(table):
    fit = fit_power_law(table)
    covariance, factor, shrinkage = error_covariance(fit.replicates, 32)
    assert factor == pytest.approx((32 - 9 - 2) / 31) and shrinkage == 0
    assert covariance == pytest.approx(np.cov(fit.replicates.T) * 32 / 31)
    models = {
        "power law": (lambda L, a, b: a * L**b, (2, 0.7)),
        "logarithm": (lambda L, a, c: a * np.log(L) + c, (5, 1)),
        "power law + offset": (lambda L, a, b, c: a * L**b + c, (2, 0.7, 0)),
    }
    for name, (model, start) in models.items():
        found = optimize.curve_fit(
            model,
            LENGTHS.astype(float),
            fit.mi,
            p0=start,
            sigma=covariance / factor,
            absolute_sigma=True,
            maxfev=20_000,
            xtol=1e-14,
            ftol=1e-14,
        )[0]
        residual = fit.mi - model(LENGTHS, *found)
        row = fit.ranking.table.filter(pl.col("law") == name).to_dicts()[0]
        k, n = len(start), len(LENGTHS)
        assert row["chi2"] == pytest.approx(residual @ np.linalg.solve(covariance / factor, residual), rel=1e-5)
        assert row["aicc"] == pytest.approx(row["chi2"] + 2 * k + 2 * k * (k + 1) / (n - k - 1)) and row["dof"] == n - k


def test_the_ranking_is_consistent(table):
    ranking = fit_power_law(table).ranking.table
    assert ranking.columns == [
        "law",
        "parameters",
        "at_edge",
        "chi2",
        "dof",
        "p_value",
        "aicc",
        "delta",
        "weight",
        "status",
    ]
    assert sorted(ranking["law"]) == sorted(law.name for law in LAWS)
    assert ranking["delta"][0] == 0 and ranking["delta"].is_sorted() and ranking["status"][0] == "best"
    assert ranking["weight"].sum() == pytest.approx(1)
    chi2 = dict(zip(ranking["law"], ranking["chi2"]))
    assert chi2["power law + offset"] <= chi2["power law"] + 1e-6


def test_fewer_documents_than_lengths_still_give_a_proper_covariance(rng):
    for groups in (2, 5, 9, 12, 19):
        covariance, factor, shrinkage = error_covariance(
            np.stack(simulate(rng, groups)["replicates"].to_numpy(), 1), groups
        )
        scale = np.sqrt(np.diag(covariance))
        assert factor == 1 and 1 / (groups - 1) <= shrinkage <= 1
        assert np.linalg.eigvalsh(covariance / np.outer(scale, scale)).min() > 0.01


def test_a_handful_of_documents_ranks_nothing(rng):
    fit = fit_power_law(simulate(rng, 3, noise=0.05))
    assert "Too few independent documents" in fit.verdict and set(fit.ranking.table["status"]) == {"too few documents"}


def test_lengths_that_err_in_step_are_survived(rng):
    """One factor common to all lengths: the covariance has rank one."""
    terms = A * LENGTHS**BETA * np.exp(0.3 * rng.normal(size=(32, 1)))
    fit = fit_power_law(table_of(terms, np.ones(32, int), rng))
    assert fit.exponent == pytest.approx(BETA, abs=1e-6) and fit.interval == pytest.approx((BETA, BETA), abs=1e-6)
    assert fit.ranking.table["law"][0] == "power law"


def test_an_offset_is_never_excluded_by_its_price_alone(rng):
    """With five lengths a third parameter costs 20 in AICc, which is no evidence against it."""
    fit = fit_power_law(simulate(rng, 64, noise=0.05, lengths=LENGTHS[:5]))
    row = fit.ranking.table.filter(pl.col("law") == "power law + offset").to_dicts()[0]
    assert (
        row["delta"] > 10
        and row["status"] == "not needed"
        and "Neither needed nor excluded: the power law + offset" in fit.verdict
    )


def test_few_lengths_say_so(table):
    assert (
        "Too few lengths" in fit_power_law(table.head(2)).verdict
        and "Too few lengths" in fit_power_law(table.head(3)).verdict
    )
    four = fit_power_law(table.head(4))
    assert "Too few lengths to test: power law + offset, saturation" in four.verdict
    assert four.ranking.table["weight"].sum() == pytest.approx(1)


def test_a_law_that_misses_the_points_is_called_so(rng):
    bend = lambda L: 10 + 5 * np.sin(2 * np.log(L))
    assert "even the best law misses the points" in fit_power_law(simulate(rng, 48, bend, noise=0.02)).verdict


# ---- rankings as data -----------------------------------------------------------------------------------------


def curves(*laws, **options):
    "One table of a curve a law."
    return pl.concat(
        [
            simulate(np.random.default_rng(i), law=TRUTHS[name], **options).with_columns(method=pl.lit(name), ratio=2)
            for i, name in enumerate(laws)
        ]
    )


def test_a_ranking_is_data_and_its_sentence_a_view():
    standings = [
        ("logarithm", "best", 0.0),
        ("saturation", "not told apart", 0.25),
        ("power law + offset", "less likely", 4.5),
        ("power law", "ruled out", 12.0),
    ]
    ranking = Ranking(tuple(Standing(*row) for row in standings), 0.002, True)
    assert (
        ranking.best == "logarithm"
        and ranking.leaders == ("logarithm", "saturation")
        and ranking.sentences[0] == ranking.finding
    )
    assert str(ranking) == (
        "The data cannot tell the logarithm from saturation (Δ = 0.2). Less likely: the power law + offset (Δ = 4.5). Ruled out: the power law (Δ = 12). "
        "But even the best law misses the points by more than their errors (p = 0.002). But its exponent lies at the edge of the search, so none is claimed."
    )
    assert str(Ranking((Standing("saturation", "best", 0.0),), None, None)) == "Saturation describes the points best."


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            lambda: Standing("power law", "excluded", 1.0),
            "status is 'excluded', expected one of 'best', 'not told apart'",
        ),
        (lambda: Standing("power law", "best", float("nan")), "delta is nan"),
        (
            lambda: Ranking("power law", 0.5, False),
            "standings is 'power law', expected a list of values, each a Standing",
        ),
    ],
)
def test_a_ranking_holds_nothing_else(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_every_status_is_given_where_it_belongs(rng):
    statuses = {
        s.status
        for i in range(8)
        for haze in (0.0, 30.0, 250.0)
        for s in fit_power_law(simulate(np.random.default_rng(i), 16, TRUTHS["power law"], haze=haze)).ranking.standings
    }
    statuses |= {
        s.status for t in (simulate(rng, 3), simulate(rng, 32).head(3)) for s in fit_power_law(t).ranking.standings
    }
    assert statuses == set(Standing.__annotations__["status"].__args__)


def test_a_table_of_laws_has_a_row_a_curve():
    table = curves(*TRUTHS, groups=64, noise=0.02)
    laws = fit_laws(table)
    assert laws.columns == ["method", "ratio", *NUMBERS, "groups", "notes", *RANKED] and laws[
        "method"
    ].to_list() == laws["best_law"].to_list() == list(TRUTHS)
    assert laws.filter(power_law_status="ruled out")["method"].to_list() == list(TRUTHS)[1:]
    for row in laws.iter_rows(named=True):
        fit = fit_power_law(table.filter(method=row["method"]))
        assert [row[name] for name in NUMBERS] == [fit.exponent, *fit.interval, fit.amplitude, *fit.amplitude_interval]
        assert (row["groups"], row["notes"], row["best_p_value"]) == (64, "", fit.ranking.p_value)
        assert {s.law: (s.status, s.delta) for s in fit.ranking.standings} == {
            law.name: (row[f"{law.column}_status"], row[f"{law.column}_delta"]) for law in LAWS
        }


def test_a_row_gives_its_ranking_back():
    "Also from a file, and where nothing can be told."
    tables = [
        curves(*TRUTHS, groups=12, noise=0.3),
        curves("power law", groups=3),
        curves("logarithm", groups=32).head(3),
        curves("logarithm", groups=32).head(4),
    ]
    for table in tables:
        fit_laws(table).write_parquet(file := io.BytesIO())
        for row in pl.read_parquet(file.getvalue()).iter_rows(named=True):
            ranking = fit_power_law(table.filter(method=row["method"])).ranking
            assert ranking_of(row) == ranking and str(ranking_of(row)) == str(ranking)


def test_where_nothing_can_be_told_no_law_is_best():
    few, short = fit_laws(curves("power law", groups=3)), fit_laws(curves("power law", groups=32).head(3))
    for laws, status in ((few, "too few documents"), (short, "too few lengths")):
        row = laws.row(0, named=True)
        assert {row[f"{law.column}_status"] for law in LAWS} == {status} and {
            row[f"{law.column}_delta"] for law in LAWS
        } == {None}
        assert row["best_law"] is row["best_p_value"] is row["best_at_edge"] is None and ranking_of(row).leaders == ()
        assert laws.schema == few.schema


def test_where_no_exponent_is_claimed_a_table_of_laws_has_none(rng):
    laws = fit_laws(simulate(rng, 16, lambda L: 1e-6 * L**4.5))
    assert (
        laws.select(*NUMBERS).row(0) == (None,) * 6
        and laws.select(*NUMBERS).schema == NUMBERS
        and "at its edge" in laws["notes"][0]
    )


def test_curves_are_told_apart_by_the_columns_there_are(table):
    assert len(fit_laws(table)) == 1 and fit_laws(table)["exponent"][0] == fit_power_law(table).exponent
    several = pl.concat([table.with_columns(model=pl.lit(m), pairing=pl.lit(p)) for m in "ab" for p in "xy"])
    assert fit_laws(several).select("model", "pairing").rows() == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    with pytest.raises(ValueError, match=r"mixes model \['a', 'b'\].*fit_laws"):
        fit_power_law(several)
    assert (
        fit_laws(table, min_length=64, level=0.9)["exponent_low"][0]
        == fit_power_law(table, min_length=64, level=0.9).interval[0]
    )


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda t: t.with_columns(mi=pl.when(pl.col("method") == "logarithm").then(float("nan")).otherwise("mi")),
            "method logarithm, ratio 2: length 4 has mi nan",
        ),
        (lambda t: t.head(0), "are left with min_length=None"),
        (lambda t: t.drop("method"), "ratio 2: lengths must be positive and occur once each"),
        (lambda t: t.to_pandas().assign(stderr=0.0), "method power law, ratio 2: .* need a positive stderr"),
    ],
)
def test_a_bad_curve_is_named(spoil, message):
    with pytest.raises(ValueError, match=message):
        fit_laws(spoil(curves("power law", "logarithm", groups=16)))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda row: {k: v for k, v in row.items() if k != "saturation_status"}, "needs 'saturation_status'"),
        (lambda row: row | {"saturation_status": "excluded"}, "status is 'excluded', expected one of"),
        (lambda row: row | {"best_law": "saturation"}, "best_law is 'saturation', but the statuses say 'power law'"),
    ],
)
def test_a_row_that_keeps_no_ranking_is_refused(change, message):
    row = fit_laws(curves("power law", groups=64, noise=0.02)).row(0, named=True)
    with pytest.raises(ValueError, match=message):
        ranking_of(change(row))


# ---- exponents at the edge ------------------------------------------------------------------------------------


def test_an_exponent_at_the_edge_of_its_search_is_not_claimed(rng):
    """An explosion and a collapse, steeper than any exponent that is searched."""
    for law, edge in ((lambda L: 1e-6 * L**4.5, 3), (lambda L: 1e6 * L**-4.5, -3)):
        fit = fit_power_law(simulate(rng, 16, law))
        assert (
            fit.at_edge
            and fit.exponent == edge
            and str(fit) == f"no exponent: the search from -3 to 3 ended at {edge}.00"
        )
        assert f"ended at its edge, {edge}: no exponent is claimed" in " ".join(fit.notes)
        row = fit.ranking.table.filter(pl.col("law") == "power law").to_dicts()[0]
        assert row["parameters"].endswith(f"L^{edge:.2f}, at the edge of the search")
    assert repr(fit).startswith("PowerLaw(no exponent")


def test_an_end_of_an_interval_at_the_edge_is_marked():
    fits = [fit_power_law(simulate(np.random.default_rng(i), 16, law=lambda L: 0 * L, haze=1.0)) for i in range(12)]
    inside = [fit for fit in fits if not fit.at_edge]
    assert inside and all("[≤-3.00, ≥3.00]" in str(fit) for fit in inside if fit.interval == EXPONENTS)
    assert any(fit.interval == EXPONENTS for fit in inside) and all(
        "no exponent" in str(fit) for fit in fits if fit.at_edge and fit.amplitude > 0
    )


def test_an_ordinary_exponent_is_not_at_the_edge(table):
    fit = fit_power_law(table)
    assert (
        not fit.at_edge
        and "edge" not in f"{fit} {fit.verdict} {fit.notes}"
        and not any("edge" in text for text in fit.ranking.table["parameters"][:1])
    )


def test_no_growth_from_zero_is_no_law(table):
    below = table.with_columns(mi=-pl.col("mi"), replicates=pl.col("replicates").list.eval(-pl.element()))
    fit = fit_power_law(below)
    assert fit.at_edge and fit.amplitude == 0 and str(fit).startswith("no law")


def test_exponents_in_words():
    assert (
        exponent_in_words(0.5211, (0.48, 0.56), 3) == "0.521 [0.480, 0.560]"
        and exponent_in_words(0.04, (-0.35, 3.0)) == "0.04 [-0.35, ≥3.00]"
    )
    assert exponent_in_words(3.0, (-3.0, 3.0), 3) == "no exponent: the search from -3 to 3 ended at 3.000"


@pytest.mark.parametrize("lengths", [0, -1, [-1], [64, float("nan")], [float("inf")], "long", [[1], [2, 3]], None])
def test_a_law_is_for_positive_lengths(table, lengths):
    fit = fit_power_law(table)
    for curve in (fit.predict, fit.band):
        with pytest.raises(ValueError, match="lengths"):
            curve(lengths)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: fit_on_plain_axes([4, 8], [1, 2], [1, 1]), "mi is .*, expected numbers along 2 axes"),
        (lambda: fit_on_plain_axes([4, 8], [[1, float("nan")]], [1, 1]), "entry 0, 1 of mi is nan"),
        (
            lambda: fit_on_plain_axes([4, 8], [[1, 2]], [1, 0]),
            "entry 1 of stderr is 0, expected a finite number, above 0",
        ),
        (lambda: fit_on_plain_axes([4, 8, 16], [[1, 2]], [1, 1]), "3 lengths, mi of shape"),
        (lambda: smooth_errors([4, 4], [1, 1]), "at least two different ones"),
        (lambda: weighted_line([1, 2], [1, 2, 3], [1, 1]), "expected as many of each"),
        (lambda: error_covariance([[1.0, 2.0]], 8), "at least two draws"),
        (lambda: rank_laws([4, 8], [1, 2, 3], np.ones((9, 2)), 8), "expected as many of each"),
    ],
)
def test_wrong_numbers_are_refused_by_the_parts_of_the_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- bad tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda t: t.drop("mi"), "column 'mi'"),
        (lambda t: "table", "table is 'table', expected a Table, and it has no columns, to_dict"),
        (lambda t: t.to_pandas().drop(columns="mi"), "column 'mi'"),
        (lambda t: t.drop("groups"), "column 'groups'"),
        (lambda t: t.select("length", "mi", "stderr").with_columns(stderr=pl.lit(0.0)), "stderr 0.0"),
        (lambda t: t.select("length", "mi", "stderr").to_pandas().assign(mi=float("nan")), "length 4 has mi nan"),
        (lambda t: t.drop("length"), "column 'length'"),
        (
            lambda t: pl.concat([t.with_columns(method=pl.lit("direct")), t.with_columns(method=pl.lit("vclub"))]),
            "mixes method",
        ),
        (lambda t: pl.concat([t.with_columns(ratio=2), t.with_columns(ratio=3)]), r"mixes ratio \[2, 3\]"),
        (lambda t: pl.concat([t, t]), "once each"),
        (lambda t: t.with_columns(length=pl.col("length") - 4), "positive"),
        (lambda t: t.head(1), "at least 2"),
        (lambda t: t.head(0), "at least 2"),
        (lambda t: t.with_columns(mi=pl.lit(float("nan"))), "length 4 has mi nan"),
        (lambda t: t.with_columns(mi=pl.lit(None, pl.Float64)), "length 4 has mi nan"),
        (lambda t: t.with_columns(stderr=pl.lit(0.0)), "stderr 0.0"),
        (
            lambda t: t.with_columns(
                stderr=pl.when(pl.col("length") == 8).then(pl.col("mi") * 1e-15).otherwise("stderr")
            ),
            "length 8 .* measure more pairs",
        ),
        (lambda t: t.with_columns(groups=1), "at least 2"),
        (lambda t: t.with_columns(replicates=pl.col("replicates").list.head(10)), "at least 40"),
        (lambda t: t.with_columns(replicates=pl.Series([[1.0] * (40 + i) for i in range(9)])), "same number"),
        (lambda t: t.with_columns(replicates=pl.Series([[1.0] * 100] * 9)), "draws that differ"),
        (lambda t: t.with_columns(replicates=pl.lit(None, pl.List(pl.Float64))), "at least 40"),
        (spoilt("mi", 3, float("nan")), r"length 32 has mi nan \(row 3, column 'mi'\)"),
        (spoilt("mi", 3, 1e300), r"length 32 has mi 1e\+300 \(row 3, column 'mi'\)"),
        (spoilt("stderr", 0, float("inf")), r"length 4 has stderr inf \(row 0, column 'stderr'\)"),
        (spoilt("stderr", 0, -0.1), r"length 4 .*stderr -0.1 \(row 0\): need a positive stderr"),
        (spoilt("groups", 2, None), r"length 16 has groups nan \(row 2, column 'groups'\)"),
        (spoilt("length", 1, None), r"length None has length nan \(row 1, column 'length'\)"),
        (
            spoilt("replicates", 5, [1.0] * 399 + [-1e200]),
            r"length 128 has the draw -1e\+200 \(row 5, column 'replicates', entry 399\)",
        ),
        (spoilt("replicates", 5, None), "same number of bootstrap draws"),
        (lambda t: t.with_columns(mi=pl.col("mi").cast(str)), "column 'mi' holds String, expected numbers"),
        (lambda t: t.with_columns(replicates="mi"), "column 'replicates' holds Float64, expected lists of numbers"),
    ],
)
def test_bad_tables_are_refused(table, spoil, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(spoil(table))


@pytest.mark.parametrize("level", [0, 1, 95])
def test_bad_levels_are_refused(table, level):
    with pytest.raises(ValueError, match="confidence level"):
        fit_power_law(table, level=level)


def test_min_length_beyond_the_table_lists_the_lengths(table):
    with pytest.raises(ValueError, match="4, 8, 16.*min_length=5000"):
        fit_power_law(table, min_length=5000)


def test_rank_laws_needs_no_power_law_fit(rng):
    t = simulate(rng, 32, TRUTHS["logarithm"], noise=0.03)
    assert rank_laws(LENGTHS, t["mi"].to_numpy(), np.stack(t["replicates"].to_numpy(), 1), 32).table.height == len(LAWS)
