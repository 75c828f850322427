"Claims are data: what their file must say, and which verdict a rule gives."

import re
from pathlib import Path

import pytest
import yaml

from l2m.claims import (
    AGREES,
    DIFFERS,
    NOT_DIAGNOSTIC,
    OUT,
    PREDICATES,
    Claim,
    Estimate,
    counted,
    judged,
    law_facts,
    pair_facts,
)

ENTRY = dict(about="an example", where="Fig. 2", says="β is {theirs}.", ours="{ours}", data="a corpus")
FACTS = dict(
    theirs=0.76, ours=Estimate(0.5, 0.4, 0.6), ends=[3.0, 2.0], some=dict(b=Estimate(0.8, 0.7, 0.9)), nothing=None
)
PARTS = yaml.safe_load((Path(__file__).parents[1] / "nbs" / "claims.yml").read_text())


@pytest.mark.parametrize(
    "rule, verdict",
    [
        (["inside", "theirs", "ours"], DIFFERS),
        (["inside", "theirs", "some.b"], AGREES),
        (["inside", "theirs", "some.b", "ours"], DIFFERS),
        (["between", 0, 1, "some", "ours"], AGREES),
        (["between", 0.75, 1, "some"], DIFFERS),
        (["at_most", "theirs", 0.76], AGREES),
        (["at_least", "nothing", 0.9], OUT),
        (["falling", "ends"], AGREES),
        (["near", "theirs", 0.8, 0.05], AGREES),
        (["overtakes", ["nothing"], 1024], AGREES),
        (["proved"], AGREES),
        (None, OUT),
    ],
)
def test_a_rule_gives_a_verdict(rule, verdict):
    claim = judged(ENTRY | ({"holds": rule} if rule else {}), FACTS, "a part")
    assert claim.verdict == verdict and claim.says == "β is 0.76." and claim.ours == "0.50 [0.40, 0.60]"


def test_an_agreement_that_tells_nothing_says_so():
    entry = ENTRY | dict(holds=["at_least", "theirs", 0.5])
    assert judged(entry | dict(diagnostic=["at_most", "theirs", 1]), FACTS).verdict == AGREES
    assert judged(entry | dict(diagnostic=["at_most", "theirs", 0.5]), FACTS).verdict == NOT_DIAGNOSTIC


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(holds=["inner", "theirs", "ours"]), "rule 'inner' .* choose among proved, between"),
        (dict(holds=["inside", "their", "ours"]), "fact 'their' .* choose among theirs, ours"),
        ({True: "data"}, "'True' is missing or unknown"),
        (dict(note="data"), "'note' is missing or unknown"),
    ],
)
def test_what_is_mistyped_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        judged(ENTRY | change, FACTS)


def test_every_entry_is_whole_and_every_rule_is_used():
    entries = [entry for part in PARTS for entry in part["claims"]]
    assert len({entry["about"] for entry in entries}) == len(entries) >= 20
    assert all(entry.get("data") and entry["says"].endswith(".") for entry in entries)
    assert {entry[key][0] for entry in entries for key in ("holds", "diagnostic") if key in entry} == set(PREDICATES)


@pytest.mark.parametrize(
    "verdicts, sentence",
    [
        ([AGREES, DIFFERS, OUT], "1 agrees, 1 differs, 1 is out of reach"),
        ([AGREES, NOT_DIAGNOSTIC] * 2, "4 agree (2 of them without being diagnostic), 0 differ, 0 are out of reach"),
    ],
)
def test_counts_are_a_sentence(verdicts, sentence):
    assert counted([Claim("", "", "", "", "", verdict) for verdict in verdicts]) == sentence


def test_estimates_in_a_list_stand_apart():
    "Commas stand inside an interval, so none may stand between two estimates."
    texts = [
        entry[key] for part in PARTS for entry in part["claims"] for key in ("says", "ours", "more") if key in entry
    ]
    facts = law_facts() | pair_facts()
    estimates = {key for key, value in facts.items() if isinstance(value, Estimate)}
    estimates |= {key for key, value in facts.items() if isinstance(value, dict)}  # of estimates by method
    field = rf"\{{(?:{'|'.join(map(re.escape, sorted(estimates)))})(?:\[[^]]*\])?\}}"
    close = re.compile(rf"{field}[^;.{{}}]*,[^;.{{}}]*{field}")
    assert any(len(re.findall(field, text)) > 1 for text in texts)
    assert [text for text in texts if close.search(text)] == []
