"What every doubling of the context gains: against exact entropies, in parts and whole, killed and resumed, and refused."

import re
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch

from l2m.context import (
    ContextScores,
    UsefulContext,
    context_gains,
    context_page,
    doublings,
    in_words,
    measure_context,
    stride,
    tokens_to_read,
    useful_context,
)
from l2m.models import build_model
from l2m.processes import MarkovChain, PolyaUrn, Purse, process_windows
from l2m.santa_fe import SantaFe
from l2m.scoring import LanguageModel, SequenceScorer
from l2m.state import history_state
from l2m.stores import Damaged

CHAIN = MarkovChain(((0.9, 0.1), (0.2, 0.8)))


def windows_of(process, n=200, length=24, seed=0):
    return process_windows(process, length, n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "process", [PolyaUrn(3, 1.0), Purse((0.9, 0.3)), CHAIN, SantaFe(0.7, 8)], ids=lambda process: process.name
)
def test_gains_are_the_differences_of_conditional_entropies(process):
    """Every context is exact, and 4 errors hold all of them but for one run in some thousands."""
    scores = measure_context(process, windows_of(process, 1500), longest=16, targets=8, slack=0, batch_size=1500)
    table = context_gains(scores)
    given = np.diff([process.block_entropy(c) for c in range(18)])  # H(c + 1) - H(c)
    exact = given[doublings(16)]
    assert scores.seen == doublings(16)
    assert (np.abs(table["nll"].to_numpy() - exact) < 4 * table["nll_stderr"].to_numpy()).all()
    errors = np.maximum(4 * table["gain_stderr"].to_numpy()[1:], 1e-7)  # a chain gains nothing, and that exactly
    assert (np.abs(table["gain"].to_numpy()[1:] + np.diff(exact)) < errors).all()


@pytest.mark.parametrize("slack", [0, 0.25, 0.6, 1])
@pytest.mark.parametrize("targets", [1, 6, 8])
def test_every_target_is_read_after_its_own_context(targets, slack):
    "An independent way, one text a target; the tokens read are as many as was said."
    urn, read = PolyaUrn(3, 1.0), []

    @dataclass(frozen=True)
    class Watched(SequenceScorer):
        vocabulary, name = 3, "watched"

        def token_logprobs(self, tokens):
            read.append(tokens.numel())
            return urn.token_logprobs(tokens)

    drawn = windows_of(urn, 3, 16 + targets + 2)  # more than is needed: the first tokens count
    scores = measure_context(Watched(), drawn, longest=16, targets=targets, slack=slack)
    assert sum(read) == 3 * tokens_to_read(16, targets, slack)
    for i, c in enumerate(doublings(16)):
        n = stride(c, targets, slack)
        assert targets % n == 0 and n <= max(1, slack * c)
        for j in range(targets):
            text = drawn.tokens[:, 16 + j - j % n - c : 17 + j]
            assert torch.equal(torch.tensor(scores.nats[:, i, j]), urn.token_logprobs(text)[:, -1].float().double())


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    urn, drawn, left = PolyaUrn(), windows_of(PolyaUrn(), 5), []

    @dataclass(frozen=True)
    class Killed(SequenceScorer):
        vocabulary, name = 2, "killed"

        def token_logprobs(self, tokens):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            return urn.token_logprobs(tokens)

    ask = dict(longest=8, targets=4, store=str(tmp_path / "store"))
    left += [None] * (4 * 2 + 1)  # two windows of four contexts, and one reading more
    with pytest.raises(KeyboardInterrupt):
        measure_context(Killed(), drawn, **ask)
    left += [None] * (4 * 3)
    resumed = measure_context(Killed(), drawn, **ask)
    assert not left
    whole = measure_context(urn, drawn, longest=8, targets=4, batch_size=5)
    np.testing.assert_array_equal(resumed.nats, whole.nats)
    with pytest.raises(ValueError, match="other parameters .*targets: 4 there, 2 now"):
        measure_context(Killed(), drawn, **ask | dict(targets=2))
    (shard := tmp_path / "store/context-000003.parquet").write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(Damaged, match="context-000003"):
        measure_context(Killed(), drawn, **ask)


@dataclass(frozen=True)
class Short(SequenceScorer):
    "Refuses to read: what is wrong must be found before."

    vocabulary, name, context_limit = 2, "short", 19

    def token_logprobs(self, tokens):
        raise AssertionError("it was read")


@pytest.mark.parametrize(
    "ask, message",
    [
        (dict(longest=12, targets=4), "longest is 12, no power of two: choose 8 or 16"),
        (dict(longest=1, targets=4), "longest is 1, no power of two: choose 2 or 4"),
        (
            dict(longest=32, targets=4),
            "32 tokens of context and 4 targets do not fit into windows of 24: draw windows of 36",
        ),
        (
            dict(longest=16, targets=8),
            "16 tokens of context and 8 targets exceed the 19-token context of 'short': choose longest <= 8",
        ),
        (dict(longest=2, targets=22), "exceed the 19-token context of 'short': choose fewer targets"),
        (dict(longest=16, targets=4, slack=1.5), "slack"),
        (dict(longest=16, targets=0), "targets"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line_before_anything_is_read(ask, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        measure_context(Short(), windows_of(CHAIN, 4), **ask)
    assert "\n" not in str(refused.value)


def test_one_document_and_what_is_no_probability_are_refused():
    drawn = windows_of(CHAIN, 3)
    alone = type(drawn)(drawn.tokens, ["one"] * 3, drawn.starts, drawn.chars, "c", "f", "t")
    with pytest.raises(ValueError, match="all windows come from one document"):
        measure_context(CHAIN, alone, longest=8, targets=4)

    @dataclass(frozen=True)
    class Wrong(SequenceScorer):
        vocabulary, name = 2, "wrong"

        def token_logprobs(self, tokens):
            return torch.full(tokens.shape, torch.nan)

    with pytest.raises(ValueError, match="'wrong' returned no finite log-probabilities"):
        measure_context(Wrong(), drawn, longest=8, targets=4)


def test_one_document_gives_no_interval_and_two_draws_the_wider_one():
    few = scores_of([3, 2.5, 2.4], n=4, noise=0.3)
    with pytest.raises(ValueError, match="all windows come from one document"):
        context_gains(ContextScores(few.contexts, few.nats, ["one"] * 4, few.parameters))
    found = [useful_context(few, 0.05, draws=2, seed=seed) for seed in range(20)]
    assert any(one.low != one.high for one in found)


def scores_of(losses, n=12, noise=0.0):
    "Windows with these losses, each from a document of its own"
    rng = np.random.default_rng(0)
    nats = -np.array(losses)[:, None] + noise * rng.standard_normal((n, len(losses), 4))
    return ContextScores(doublings(2 ** (len(losses) - 1)), nats, [str(i) for i in range(n)], dict(slack=0, bos=0))


@pytest.mark.parametrize(
    "losses, length",
    [
        ([4, 3, 2.5, 2.49, 2.48], 4),
        ([4, 3, 2.5, 2.49, 2.3], None),  # a late gain counts
        ([2, 2, 2, 2, 2], 1),
        ([4, 3, 3.2, 2.9, 2.89], 8),  # and so does one after a loss
    ],
)
def test_the_useful_context_is_that_of_the_last_doubling_that_pays(losses, length):
    found = useful_context(scores_of(losses), 0.01)
    assert (found.length, found.low, found.high) == (length,) * 3 and found.least == pytest.approx(0.01 * losses[-1])
    said = in_words(context_gains(scores_of(losses, noise=0.01)), found, 0.01, "m", "c")
    assert "MB" not in " ".join(said)  # nothing is known of its memory
    assert ("longer than was measured" in said[1]) == (length is None)
    assert length is None or f"Beyond {length:,} tokens" in said[1]


def test_an_uncertain_answer_has_a_wide_interval():
    found = useful_context(scores_of([4, 3, 2.5, 2.47, 2.44], noise=0.3), 0.01)
    order = lambda c: 99 if c is None else c
    assert order(found.low) <= order(found.length) <= order(found.high) and order(found.low) < order(found.high)


@pytest.mark.parametrize(
    "low, length, high, begins",
    [
        (256, None, None, "Somewhere from 256 tokens upwards (95 % interval, without an upper end within the 1,024 that were measured) lies"),
        (64, 128, None, "Somewhere from 64 tokens upwards (95 % interval, without an upper end within the 1,024 that were measured) lies"),
        (64, 128, 256, "Somewhere from 64 to 256 tokens (95 % interval) lies"),
        (64, 128, 128, "Beyond 128 tokens a doubling gains less than 2 % of the loss (0.050 nats per token); 95 % interval: 64 to 128."),
        (128, 128, 128, "Beyond 128 tokens a doubling gains less than 2 % of the loss (0.050 nats per token); 95 % interval: 128."),
        (None, None, None, "At 1,024 tokens a doubling still gains 2 % of the loss or more"),
    ],
)  # fmt: skip
def test_the_answer_is_no_surer_than_its_interval(low, length, high, begins):
    table = context_gains(scores_of([4 - 0.1 * k for k in range(11)], noise=0.01))
    said = in_words(table, UsefulContext(length, low, high, 0.05), 0.02, "m", "c")[1]
    assert said.startswith(begins)
    best = "more than 512" if length is None else f"{length:,}"
    assert (f"The best single answer is {best} tokens" in said) == begins.startswith("Somewhere")


@pytest.mark.parametrize("family, grows", [("llama", True), ("mamba2", False)])
def test_memory_is_what_the_model_carries(family, grows):
    model = build_model(family, length=32, vocabulary=2)
    table = context_gains(scores_of([2, 1.8, 1.7]), state := history_state(model, 2), dtype="float32")
    said = in_words(table, useful_context(scores_of([2, 1.8, 1.7])), 0.01, "m", "c", "float32")
    assert any(f"{table['state_bytes'][2] / 1e6:.1f} MB, in float32, for each text" in sentence for sentence in said)
    assert table["state_bytes"].to_list() == [state.at(c + 2).bytes("float32") for c in (1, 2, 4)]  # BOS is read too
    if grows:
        added = (table["state_bytes"][2] - table["state_bytes"][1]) / 1e6
        assert table["gain_per_mb"][2] == pytest.approx(0.1 / added)
    else:  # nothing is added once a convolution is full, and nothing is paid
        assert table["gain_per_mb"].null_count() >= 1
    assert context_gains(scores_of([2, 1.8, 1.7]))["gain_per_mb"].null_count() == 3


def test_intervals_count_documents_and_not_tokens():
    "Windows of one document are one observation: doubling every window changes no interval but by the size of its document."
    one = scores_of([3, 2.5, 2.4], 10, 0.5)
    twice = ContextScores(one.contexts, np.repeat(one.nats, 2, 0), list(np.repeat(one.documents, 2)), one.parameters)
    for a, b in zip(context_gains(one)["gain_stderr"][1:], context_gains(twice)["gain_stderr"][1:]):
        assert a == pytest.approx(b)


def test_a_model_of_transformers_is_read_with_its_bos():
    model = LanguageModel(build_model("llama", length=32, vocabulary=3), None, "llama", 3)
    drawn = windows_of(PolyaUrn(3, 1.0), 2)
    scores = measure_context(model, drawn, longest=8, targets=4, slack=0)
    for j in range(4):
        text = drawn.tokens[:, 8 + j - 4 : 9 + j]
        torch.testing.assert_close(
            torch.tensor(scores.nats[:, 2, j]), model.logprobs(text)[0][:, -1].double(), rtol=0, atol=1e-5
        )


def test_the_page_holds_all_it_needs():
    table = context_gains(scores_of([3, 2.5, 2.4], noise=0.1))
    picture = '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://www.w3.org/x"><svg id="figure"></svg>'
    page = context_page("<script>", ["a & b"], table, picture, "x < y")
    assert not re.search(r"https?:|<link|<script|@import|src=", page) and '<svg id="figure">' in page
    assert "&lt;script&gt;" in page and "a &amp; b" in page and "x &lt; y" in page
    assert page.count("<tr>") == 1 + len(table) and page.count("–") >= len(table)  # memory is not known
    assert isinstance(table, pl.DataFrame)
