"The conformance kit: every scorer of the package passes, and a scorer that breaks a promise hears which."

import math

import pytest
import torch

from l2m.interface import Continuation
from l2m.ising import IsingLattice
from l2m.models import build_model
from l2m.ngrams import Adaptive, count_ngrams
from l2m.probe import probe
from l2m.processes import MarkovChain, PolyaUrn, Purse
from l2m.readers import Forgetful, Mixed, Opening, Truncated
from l2m.recall import MQAR, Copying, Passkey
from l2m.renewals import Renewal
from l2m.santa_fe import SantaFe
from l2m.scoring import LanguageModel, SequenceScorer
from l2m.testing import PROMISES, check_scorer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


CHAIN, FACTS, QUERIES, LATTICE = (
    MarkovChain(((0.9, 0.1, 0.0), (0.2, 0.5, 0.3), (0.4, 0.1, 0.5))),
    SantaFe(0.5, 20),
    SantaFe(0.5, 20, "query"),
    IsingLattice(3, 4),
)
COUNTED = count_ngrams(CHAIN.sample(4, 100, generator()), 3, 3)
drawn = lambda source: source.sample(4, 14, generator(1))
EVEN = dict(
    texts=drawn(QUERIES), splits=range(0, 15, 2), followers=range(20), impossible=True
)  # questions stand at even places
PAIRS, KEY, END = MQAR(3, 5, 5, slots=5), Passkey(12, 2, 2), dict(impossible=True, opens=False)
SCORERS = {
    "facts": (FACTS, dict(impossible=True)),
    "facts, as drawn": (FACTS, dict(texts=drawn(FACTS), impossible=True)),
    "questions": (QUERIES, EVEN),
    "urn": (PolyaUrn(3), {}),
    "purse": (Purse(), {}),
    "renewals": (Renewal(), {}),
    "chain": (CHAIN, dict(impossible=True)),
    "mixed": (Mixed(CHAIN, 0.1, (0.2, 0.3, 0.5)), {}),
    "truncated": (Truncated(PolyaUrn(3), 4), {}),
    "opening": (Opening(PolyaUrn(3), 2), {}),
    "forgetful": (Forgetful(FACTS, 0.1, 0.2), {}),
    "forgets questions": (Forgetful(QUERIES, 0.1), EVEN),
    "lattice": (LATTICE, dict(texts=LATTICE.sample(3, 12, generator()), opens=False)),
    "copies": (Copying(3, 5), dict(texts=drawn(Copying(3, 5)), impossible=True)),
    "pairs": (PAIRS, dict(texts=PAIRS.sample(3, 16, generator()), splits=range(2, 17, 2), **END)),
    "passkey": (KEY, dict(texts=KEY.sample(3, 12, generator()), splits=range(6, 13), **END)),
    "n-grams": (COUNTED, {}),
    "counting on": (Adaptive(COUNTED, (1.0, 2.0)), {}),
}


@pytest.mark.parametrize("name", SCORERS)
def test_every_exact_scorer_keeps_its_promises(name):
    check_scorer(SCORERS[name][0], **SCORERS[name][1])


def language_model(name, bos=96, **sizes):
    return LanguageModel(build_model(name, length=64, vocabulary=96, **sizes), None, name, bos)


@pytest.mark.parametrize(
    "name, bos", [("llama", 96), ("llama", None), ("sliding", 96), ("mamba", 96), ("mamba2", None)]
)
def test_language_models_keep_them_once_they_are_probed(name, bos):
    probe(scorer := language_model(name, bos))
    check_scorer(scorer)


def test_a_model_that_was_not_probed_may_lose_its_state():
    model = language_model("mamba")
    with torch.no_grad():
        for p in model.model.parameters():
            if p.ndim > 1:
                p.mul_(3)
    with pytest.raises(ValueError, match="'mamba' breaks the promise '(company|causal|in place)'"):
        check_scorer(model)


def test_a_short_context_is_enough():
    torch.manual_seed(0)
    for length in (1, 2, 3, 5):
        check_scorer(LanguageModel(build_model("gpt2", length=length, vocabulary=9), None, "short", 9))


def test_a_large_vocabulary_is_sampled():
    urn = PolyaUrn(5000)
    check_scorer(urn)
    with pytest.raises(ValueError, match="'normalised', that .* add up to one: 1.5 over 300 tokens"):
        check_scorer(Louder(5000), sample=300)


# ---- one broken promise each


class Urn(SequenceScorer):
    "Counts on: each token is as likely as it was frequent, and depends on all before it."

    name, vocabulary, fingerprint = "urn", 4, "urn"

    def token_logprobs(self, tokens):
        before = torch.nn.functional.one_hot(tokens, self.vocabulary).double().cumsum(1).roll(1, 1)
        before[:, 0] = 0
        return ((before.gather(2, tokens[..., None])[..., 0] + 0.5) / (before.sum(2) + 0.5 * self.vocabulary)).log()


class Louder(Urn):
    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def token_logprobs(self, tokens):
        return torch.full(tokens.shape, math.log(1.5 / min(300, self.vocabulary)), dtype=torch.float64)


def mutant(**changes):
    return type("Mutant", (Urn,), changes)()


def every(change):
    "A mutant whose answers are changed."

    def logprobs(self, contexts, continuations=()):
        return change(contexts, continuations, *Urn.logprobs(self, contexts, continuations))

    return mutant(logprobs=logprobs)


class Vast(Urn):
    "Reads whatever it is given, by any number."

    def logprobs(self, contexts, continuations=()):
        fit = lambda ids: ids.long().clamp(0, self.vocabulary - 1)
        return Urn.logprobs(self, fit(contexts), [Continuation(c.split, fit(c.tokens)) for c in continuations])


class Indexed(Urn):
    "Fails where a table does."

    def logprobs(self, contexts, continuations=()):
        if contexts.numel() and int(contexts.max()) >= self.vocabulary:
            raise IndexError("index out of range")
        return Urn.logprobs(self, contexts, continuations)


class Wrapping(Urn):
    "Says how much it reads, and reads the end of what is longer."

    context_limit = 16

    def logprobs(self, contexts, continuations=()):
        Urn().logprobs(contexts, continuations)
        read = lambda whole: torch.nn.functional.pad(
            Urn().token_logprobs(whole[:, -16:]), (max(0, whole.shape[1] - 16), 0), value=-1.0
        )
        whole = [torch.cat([contexts[:, : c.split], c.tokens], 1) for c in continuations]
        return read(contexts), [read(w)[:, c.split :] for w, c in zip(whole, continuations)]


calls = iter(range(10**6))  # of the mutants, all together
longer = lambda contexts, value: torch.cat([value, value[:, :1]], 1)


def peeking(self, tokens):
    "Sees whether the token comes again."
    q = Urn().token_logprobs(tokens)
    return torch.where(torch.cat([tokens[:, 1:] == tokens[:, :-1], tokens[:, :1] < 0], 1), q / 2, q)


MUTANTS = {
    "a name that is none": ("members", mutant(name="")),
    "a vocabulary in words": ("members", mutant(vocabulary="four")),
    "a BOS outside the vocabulary": ("members", mutant(bos=4)),
    "a BOS that is a yes": ("members", mutant(bos=True)),
    "no room": ("members", mutant(context_limit=0)),
    "a new fingerprint each time": ("members", mutant(fingerprint=property(lambda self: f"print {next(calls)}"))),
    "tensors in its provenance": ("provenance", mutant(provenance=lambda self: {"device": torch.device("cpu")})),
    "NaN in its provenance": ("provenance", mutant(provenance=lambda self: {"temperature": math.nan})),
    "tuples in its provenance": ("provenance", mutant(provenance=lambda self: {"shape": (1, 2)})),
    "one column too many": ("shapes", every(lambda c, a, plain, found: (longer(c, plain), found))),
    "a continuation with its context": (
        "shapes",
        mutant(
            logprobs=lambda self, contexts, continuations=(): (
                Urn.logprobs(self, contexts)[0],
                [Urn.token_logprobs(self, torch.cat([contexts[:, : c.split], c.tokens], 1)) for c in continuations],
            )
        ),
    ),
    "an answer too few": ("shapes", every(lambda c, a, plain, found: (plain, found[:-1]))),
    "lists": ("shapes", every(lambda c, a, plain, found: (plain.tolist(), found))),
    "nats that are costs": ("probabilities", every(lambda c, a, plain, found: (-plain, [-f for f in found]))),
    "not a number": ("probabilities", every(lambda c, a, plain, found: (plain.log(), found))),
    "impossible tokens": (
        "probabilities",
        mutant(token_logprobs=lambda self, tokens: torch.where(tokens == 0, -torch.inf, -math.log(3)).double()),
    ),
    "another answer each time": (
        "repeated",
        mutant(
            token_logprobs=lambda self, tokens: torch.full(
                tokens.shape, -math.log(4) - 0.001 * next(calls), dtype=torch.float64
            )
        ),
    ),
    "padding that is read": (
        "rows",
        mutant(token_logprobs=lambda self, tokens: Urn.token_logprobs(self, tokens) - 0.01 * len(tokens)),
    ),
    "rows that are mixed": (
        "rows",
        mutant(
            token_logprobs=lambda self, tokens: (
                Urn.token_logprobs(self, tokens).mean(0, keepdim=True).expand(tokens.shape)
            )
        ),
    ),
    "answers by length": (
        "company",
        every(lambda c, a, plain, found: (plain, [f + 0.1 * (i % 2 - 1) for i, f in enumerate(found)])),
    ),
    "a look ahead": ("causal", mutant(token_logprobs=peeking)),
    "a state that is lost": (
        "in place",
        mutant(
            logprobs=lambda self, contexts, continuations=(): (
                Urn.logprobs(self, contexts)[0],
                [Urn.logprobs(self, c.tokens)[0] for c in continuations],
            )
        ),
    ),
    "a split too early": (
        "in place",
        mutant(
            logprobs=lambda self, contexts, continuations=(): Urn.logprobs(
                self, contexts, [Continuation(max(c.split - 1, 0), c.tokens) for c in continuations]
            )
        ),
    ),
    "a context that is read at split 0": (
        "in place",
        mutant(
            logprobs=lambda self, contexts, continuations=(): (
                Urn.logprobs(self, contexts)[0],
                [Urn.logprobs(self, contexts, [Continuation(c.split or 1, c.tokens)])[1][0] for c in continuations],
            )
        ),
    ),
    "weights that do not add up": (
        "normalised",
        mutant(token_logprobs=lambda self, tokens: Urn.token_logprobs(self, tokens) - 0.2),
    ),
    "any number is a token": ("refusals", Vast(), "a token id that is too large is read"),
    "an IndexError": ("refusals", Indexed(), "a token id that is too large ends in IndexError: index out of range"),
    "a text that wraps around": ("refusals", Wrapping(), "a text longer than its context is read"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_named(name):
    promise, scorer, said = (*MUTANTS[name], "")[:3]
    with pytest.raises(
        ValueError, match=f"breaks the promise '{promise}', that {PROMISES[promise].__doc__}: "
    ) as error:
        check_scorer(scorer)
    assert "\n" not in str(error.value) and said in str(error.value)


def test_every_promise_has_a_mutant():
    check_scorer(Urn())
    assert {promise for promise, *_ in MUTANTS.values()} == set(PROMISES)


def test_what_is_read_alone_may_be_an_end():
    "A lattice takes it for one, and the kit has to be told."
    with pytest.raises(ValueError, match="breaks the promise 'in place'"):
        check_scorer(LATTICE, LATTICE.sample(3, 12, generator()))
    leaning = every(
        lambda c, a, plain, found: (
            plain,
            [f if k.split else f - 0.1 * (1 + c.sum(1, keepdim=True)) for k, f in zip(a, found)],
        )
    )
    with pytest.raises(ValueError, match="breaks the promise 'in place', that .* at split 0 by"):
        check_scorer(leaning, opens=False)


def test_an_error_on_the_way_is_a_broken_promise():
    def fail(self, tokens):
        raise RuntimeError("no such kernel")

    with pytest.raises(ValueError, match="'urn' breaks the promise 'shapes', that .*: RuntimeError: no such kernel"):
        check_scorer(mutant(token_logprobs=fail))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(scorer="gpt2"),
            "scorer is 'gpt2', expected a Scorer, and it has no bos, context_limit, fingerprint, logprobs, name, provenance, vocabulary",
        ),
        (dict(texts=torch.zeros(1, 9, dtype=torch.long)), r"texts of shape \(1, 9\): give at least two"),
        (dict(texts=torch.zeros(9, dtype=torch.long)), r"texts of shape \(9,\): give at least two"),
        (dict(splits=3), "splits is 3, expected a list of whole numbers or None"),
        (dict(texts=torch.zeros(2, 12, dtype=torch.long), splits=[13]), "splits \\[13\\]: choose from 0 to 12"),
        (dict(tolerance=None), "tolerance is None, expected a finite number"),
    ],
)
def test_a_trial_that_cannot_be_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_scorer(**dict(scorer=Urn()) | arguments)
