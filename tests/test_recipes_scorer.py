"Two recipes of CONTRIBUTING: a scorer and an architecture of ten lines each, through everything that is made of them."

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l2m.audit import audit
from l2m.bipartite import measure_bipartite
from l2m.estimators import bipartite_mi
from l2m.processes import MarkovChain, PolyaUrn, process_windows
from l2m.scaling import fit_power_law
from l2m.scoring import SequenceScorer
from l2m.state import history_state
from l2m.tasks import DiscreteTask
from l2m.testing import check_scorer
from l2m.training import Plan, evaluate, train

# A scorer: one method, and two members for tables and checks.


@dataclass(frozen=True)
class Tally(SequenceScorer):
    "Counts what it has read, from some number of each token on."

    vocabulary: int
    head_start: float = 1.0
    name = "tally"

    def token_logprobs(self, tokens):
        seen = F.one_hot(tokens, self.vocabulary).double().cumsum(1) - F.one_hot(tokens, self.vocabulary)
        counts = seen + self.head_start
        return (counts.gather(2, tokens[..., None])[..., 0] / counts.sum(2)).log()


def test_a_scorer_of_ten_lines_is_measured_and_fitted():
    urn, scorer = PolyaUrn(3, 1.0), Tally(3)
    check_scorer(scorer)
    assert scorer.fingerprint == Tally(3).fingerprint != Tally(3, 2.0).fingerprint
    windows = process_windows(urn, 64, 400, torch.Generator().manual_seed(0))
    table = bipartite_mi(
        measure_bipartite(scorer, windows, lengths=[4, 8, 16, 32, 64], batch_size=200), draws=50
    ).filter(method="direct")
    for row in table.iter_rows(named=True):  # the tally is this urn's own law
        assert abs(row["mi"] - urn.bipartite_mi(row["split"], row["length"])) < 4 * row["stderr"]
    law = fit_power_law(table)
    assert law.interval[0] < law.exponent < law.interval[1] and 0 < law.exponent < 1


# An architecture: a module with `config` and `logits`, as in transformers, that says what it carries.


class LastToken(nn.Module):
    "Remembers the token it read last, and nothing else."

    def __init__(self, vocabulary: int):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocabulary + 1, bos_token_id=vocabulary)
        self.table = nn.Embedding(vocabulary + 1, vocabulary + 1)

    def forward(self, ids, use_cache=False):
        return SimpleNamespace(logits=self.table(ids))

    def state_size(self, length):
        return 1


def test_an_architecture_of_ten_lines_is_trained_and_audited():
    chain = MarkovChain(((0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.2, 0.2, 0.6)))
    task, model = DiscreteTask(chain, 16, exact=True), LastToken(3)
    before = evaluate(model, task, 200, 100).averages["kl"]
    losses = train(model, DiscreteTask(chain, 16), Plan(300, 32, 0.1, warmup=10, weight_decay=0.0))
    after = evaluate(model, task, 200, 100).averages["kl"]
    assert losses["loss"][-1] < losses["loss"][0] and after < 0.02 < before  # one token is all that a chain remembers

    assert int(history_state(model, 1000)) == 1
    row = audit([model]).row(0, named=True)
    assert row["error"] is None and row["exponent"] == 0 and row["model"] == "LastToken"


def test_what_does_not_fit_the_task_is_refused_before_training():
    with pytest.raises(ValueError, match="a model of 4 tokens does not fit 3: build it with vocabulary=3"):
        train(LastToken(4), DiscreteTask(MarkovChain(((0.5, 0.3, 0.2),) * 3), 16), Plan(3, 4, 0.1, warmup=0))
