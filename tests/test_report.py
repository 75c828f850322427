"A law in plain words, the exponents while they narrow, and a page that asks no other host for anything."

import re

import numpy as np
import polars as pl
import pytest
import torch

from l2m.bipartite import measure_bipartite
from l2m.estimators import Direct, VClub, bipartite_mi
from l2m.processes import PolyaUrn, process_windows
from l2m.report import exponents_so_far, html_page, in_plain_words, law_report, narrowing
from l2m.scaling import fit_power_law

LENGTHS = 4 * 2 ** np.arange(9)
COUNTS = {4: 120, 16: 60, 64: 20}


def fitted(law, noise=0.02, haze=0.0, groups=32, lengths=LENGTHS, seed=0):
    "A law fitted to simulated documents"
    rng = np.random.default_rng(seed)
    truth = law(lengths.astype(float))
    terms = truth * (1 + noise * rng.normal(size=(groups, len(lengths)))) + haze * rng.normal(
        size=(groups, len(lengths))
    )
    draws = rng.multinomial(groups, np.full(groups, 1 / groups), size=400) @ terms / groups
    columns = dict(length=lengths, mi=terms.mean(0), stderr=terms.std(0, ddof=1) / np.sqrt(groups), groups=groups)
    return fit_power_law(pl.DataFrame(columns | dict(replicates=draws.T.tolist())))


@pytest.fixture(scope="module")
def urn():
    windows = process_windows(PolyaUrn(), 64, 120, torch.Generator().manual_seed(0))
    return windows, measure_bipartite(PolyaUrn(), windows, lengths=COUNTS, batch_size=20)


@pytest.mark.parametrize(
    "law, options, said",
    [
        (
            lambda L: 2 * L**0.6,
            {},
            ["becomes 1.5", "more slowly than the text", "A power law describes the points.", "Worse: ", "saturation"],
        ),
        (lambda L: 2 * L**1.4, {}, ["becomes 2.6", "A power law describes the points"]),
        (
            lambda L: 4 + 9 * np.log(L / 4),
            {},
            ["A pure power law does not describe them: logarithm does better", "average slope"],
        ),
        (lambda L: 2 * L**0.6, dict(groups=4), ["cannot be told: too few documents"]),
        (lambda L: 2 * L**0.6, dict(lengths=LENGTHS[::4]), ["cannot be told: too few lengths"]),
        (lambda L: 0 * L + 0.5, dict(haze=2.0), ["Growth cannot be told from none"]),
        (lambda L: 1e-6 * L**4.5, {}, ["No law of growth fits", "Note: the search for the exponent ended at its edge"]),
    ],
)
def test_a_law_in_plain_words(law, options, said):
    fit = fitted(law, **options)
    words = " ".join(in_plain_words(fit))
    assert all(part in words for part in said), words
    if "becomes" in words:
        numbers = [
            float(n) for n in re.search(r"becomes ([\d.]+) times as large \(([\d.]+) to ([\d.]+) times", words).groups()
        ]
        assert numbers == pytest.approx([2**fit.exponent, *(2**end for end in fit.interval)], abs=0.006)
    assert ("more slowly" in words) == ("When the length doubles" in words and fit.interval[1] < 1)
    assert ("power law" in words) == ("When the length doubles" in words)
    assert all(note in words for note in fit.notes)


def test_exponents_are_told_while_they_narrow(urn):
    "Nothing before two groups have every length; then what the complete scores of these windows say"
    windows, whole = urn
    parts = []
    watch = lambda part: parts.append(part) or exponents_so_far(part, [Direct(), VClub()])
    few = process_windows(PolyaUrn(), 64, 12, torch.Generator().manual_seed(2))
    measure_bipartite(PolyaUrn(), few, lengths={4: 12, 64: 4}, batch_size=1, watch=lambda part: watch(part))
    assert exponents_so_far(parts[0], [Direct()]) == ""
    table = bipartite_mi(whole, [Direct(), VClub()], draws=200)
    said = exponents_so_far(whole, [Direct(), VClub()])
    for method in ("direct", "vclub"):
        fit = fit_power_law(table.filter(method=method))
        assert f"{method} β = {fit.exponent:.2f} [{fit.interval[0]:.2f}, {fit.interval[1]:.2f}]" in said


def test_a_share_of_the_windows_is_a_measurement_of_them(urn):
    windows, whole = urn
    price = narrowing(whole, [Direct(), VClub()], shares=(0.5, 1))
    half = measure_bipartite(PolyaUrn(), windows, lengths={L: n // 2 for L, n in COUNTS.items()}, batch_size=20)
    for share, scores in ((0.5, half), (1.0, whole)):
        rows = price.filter(share=share)
        assert rows["tokens"].to_list() == [scores.tokens_scored] * 2
        table = bipartite_mi(scores, [Direct(), VClub()])
        for method, exponent in rows.select("method", "exponent").rows():
            assert exponent == pytest.approx(fit_power_law(table.filter(method=method)).exponent, abs=0.02)
    width = price["exponent_high"] - price["exponent_low"]
    assert (width.filter(price["share"] == 0.5).to_numpy() > width.filter(price["share"] == 1.0).to_numpy()).all()


def test_a_page_holds_text_as_text_and_needs_nothing_else():
    svg = '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD" "http://www.w3.org/svg11.dtd"><svg><g/></svg>'
    page = html_page("A <b> & c", ["<script>alert(1)</script>"], [svg], [[["x<y"], ["</td>"]]], ["{braces} & more"])
    assert "<script" not in page and "http" not in page and "{braces} &amp; more" in page and "<svg><g/></svg>" in page
    assert page.count("&lt;") == 6 and "<title>A &lt;b&gt; &amp; c</title>" in page


def test_a_report_tells_every_law_with_its_notes_and_every_point():
    weak = fitted(lambda L: 0.2 * L**0.3, haze=4.0, groups=12, seed=2)
    strong = fitted(lambda L: 2 * L**0.6)
    rows = [
        dict(method=name, length=int(L), mi=mi, stderr=error, n=9)
        for name, fit in (("direct", strong), ("vclub", weak))
        for L, mi, error in zip(fit.lengths, fit.mi, fit.stderr)
    ]
    page = law_report(
        "A text", pl.DataFrame(rows), {"direct": strong, "vclub": weak}, "<svg></svg>", ["with this command"]
    )
    assert weak.notes and all(page.count(note) == 2 for note in weak.notes), "in the words and in the table"
    assert (
        page.index("By the estimate direct (")
        < page.index("By the estimate vclub (")
        < page.index("<svg>")
        < page.index("<table>")
    )
    assert "<p>In short: that the information grows with the length of a block can be seen by 1 of 2 estimates." in page
    assert f"{strong.exponent:.2f}" in page and f"{strong.mi[0]:.1f} ± {2 * strong.stderr[0]:.1f}" in page
    assert "1,024" in page and "with this command" in page and "nats" in page


@pytest.mark.parametrize(
    "laws, said",
    [
        (
            (lambda L: 2 * L**0.6, lambda L: 3 * L**0.5),
            "1.41 to 1.52 times as much, by 2 estimates. A power law describes this growth by the estimate a and b.",
        ),
        (
            (lambda L: 2 * L**0.6, lambda L: 4 + 9 * np.log(L / 4)),
            "A power law describes this growth by the estimate a, but not by b.",
        ),
        ((lambda L: 4 + 9 * np.log(L / 4),), "By the estimate a no power law does."),
        ((lambda L: 0 * L + 0.5,), "can be seen by no estimate."),
    ],
)
def test_one_sentence_for_all(laws, said):
    fits = {name: fitted(law, haze=0.0 if law(4.0) > 0.5 else 2.0) for name, law in zip("ab", laws)}
    rows = [
        dict(method=m, length=int(L), mi=v, stderr=0.1, n=9) for m, f in fits.items() for L, v in zip(f.lengths, f.mi)
    ]
    assert said in law_report("T", pl.DataFrame(rows), fits, "<svg></svg>", [])
