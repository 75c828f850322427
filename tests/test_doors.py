"Wrong values at the doors of the library: one ValueError each, before anything is read, drawn or computed."

import math
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from l2m.counting import PairRuns, count_keys, pack, pair_counts, spilled_pair_counts
from l2m.devices import known_device
from l2m.gaussian import DenseGaussian
from l2m.hierarchies import LogarithmicGaussian, SubvolumeGaussian
from l2m.information import counts_of_counts, entropy, grassberger_g, mutual_information
from l2m.ising import IsingLattice, coin_entropy, correlations, spin_information, window_entropies
from l2m.models import (
    Shape,
    _clock,
    build_model,
    gpt2,
    layers_and_width,
    model_arguments,
    model_config,
    parameter_count,
    state_scalars,
)
from l2m.ngrams import Adaptive, Ngrams, _count_levels, _earlier, count_ngrams, fit_strengths
from l2m.plans import Checkpoint, Plan, generator_of
from l2m.processes import (
    MarkovChain,
    PolyaUrn,
    Purse,
    _beta_binomial,
    _stationary,
    check_block,
    divergence,
    mentions,
    process_windows,
)
from l2m.ranking import Law, fit_law, ranking_of
from l2m.readers import Forgetful, Mixed, Opening, Truncated
from l2m.renewals import Renewal, _age_table, _hazards, _repeats, _unseen
from l2m.santa_fe import (
    SantaFe,
    _heard,
    _read_mentions,
    _render_mentions,
    _zipf,
    latest_mention,
    pairs_at,
    recalled_logprobs,
)
from l2m.scaling import fit_power_law
from l2m.scoring import check_tokens
from l2m.study import collapse, measured, smooth
from l2m.sums import count_sums
from l2m.tasks import DiscreteTask, GaussianTask, TextTask, gaussian_kl, token_nll
from l2m.token_cache import cached_tokens, tokenizer_fingerprint
from l2m.training import evaluate, train
from l2m.two_point import compare_floors, fit_floor, fit_two_point

PANDAS, IDS, NUMPY = pd.DataFrame({"length": [1, 2], "mi": [1.0, 2.0]}), np.arange(9), np.random.default_rng(0)
FLOATS, NEGATIVE, GENERATOR = torch.tensor([[0.5, 1.5]]), torch.tensor([[-1, 0]]), torch.Generator()
FACTS, URN, COUNTED, LATTICE = SantaFe(0.5, 20), PolyaUrn(3), count_ngrams([[0, 1, 2]], 2, 3), IsingLattice(3, 3)
TABLE = pl.DataFrame({"position": [1, 2], "kl": [0.1, 0.2], "kl_stderr": [0.1, 0.1]})

DOORS = {
    "information": [
        (lambda: mutual_information("ab"), "a joint table of type <U2 are not numbers"),
        (lambda: mutual_information([[1], [2, 3]]), "a joint table of type object are not numbers"),
        (lambda: mutual_information([1, 2]), "no two variables"),
        (lambda: entropy([1, -1]), "entry 1 is -1"),
        (lambda: entropy([1.0, math.nan]), "entry 1 is nan"),
        (lambda: entropy([0.5, 0.5]), "needs whole numbers, got 0.5"),
        (lambda: entropy([[1], [2, 3]]), "counts of type object are not numbers"),
        (lambda: entropy(["a"]), "counts of type <U1 are not numbers"),
        (lambda: entropy([1, 2], method=None), "method is None, expected text"),
        (lambda: entropy([1, 2], method="best"), "unknown entropy method 'best'"),
        (lambda: entropy([1, 2], "nsb", alphabet="many"), "alphabet is 'many', expected a finite number or None"),
        (lambda: counts_of_counts([1, 2], [1, None]), "multiplicity of type object"),
        (lambda: grassberger_g("few"), "counts of type <U3"),
        (lambda: grassberger_g([1, math.inf]), "got inf"),
    ],
    "scaling": [
        (
            lambda: fit_power_law(np.eye(2)),
            "table is a numpy.ndarray of shape (2, 2), expected a Table, and it has no columns, to_dict",
        ),
        (lambda: fit_power_law(pl.from_pandas(PANDAS), level="95 %"), "level is '95 %', expected a finite number"),
        (
            lambda: fit_power_law(pl.from_pandas(PANDAS), min_length=[4]),
            "min_length is [4], expected a finite number or None",
        ),
        (lambda: ranking_of({"law": 1}), "a row of a table of laws needs 'best_law'"),
        (lambda: Law("line", "x", None, ""), "basis is 'x', expected a function"),
        (lambda: fit_law("power law", [1, 2], [1, 2], np.eye(2)), "law is 'power law', expected a Law"),
    ],
    "two_point": [
        (lambda: pack(IDS, IDS * 1.0, 9), "second has type float64"),
        (lambda: pack(IDS, IDS, 0), "vocabulary is 0, expected a whole number, at least 1"),
        (lambda: pack(IDS, IDS, 9, groups=0), "groups is 0, expected a whole number, at least 1"),
        (lambda: pack(IDS, IDS, 9, [0], 2), "group has type int64 and shape (1,)"),
        (lambda: count_keys(IDS[:0]), "shape (0,)"),
        (lambda: count_sums(IDS, IDS * 1.0, 2), "one whole count for each whole key"),
        (lambda: pair_counts(IDS * 0.5, 1), "token ids of type float64"),
        (lambda: pair_counts("words", 1), "token ids of type <U5"),
        (lambda: pair_counts([[[1], [2, 3]]], 1), "token ids of type object"),
        (lambda: pair_counts(IDS, None), "distance is None, expected a whole number"),
        (lambda: pair_counts(IDS, 1, vocabulary=-4), "vocabulary is -4, expected a whole number, at least 1"),
        (lambda: pair_counts(IDS, 1, reach=2.0), "reach is 2.0, expected a whole number, at least 1 or None: write 2"),
        (lambda: PairRuns(""), "the folder has no name"),
        (lambda: PairRuns("runs", memory=0), "memory is 0, expected a whole number, at least 1"),
        (lambda: PairRuns("runs", groups=None), "groups is None, expected a whole number"),
        (
            lambda: list(spilled_pair_counts([IDS], 4, "runs", vocabulary=9)),
            "distances is 4, expected a list of whole numbers: write [4]",
        ),
        (
            lambda: list(spilled_pair_counts([IDS], [4], "runs", vocabulary=True)),
            "vocabulary is True, expected a whole number, at least 1",
        ),
        (lambda: list(spilled_pair_counts(None, [4], "runs", vocabulary=9)), "documents is None, expected a"),
        (lambda: tokenizer_fingerprint("gpt2"), "tokenizer is 'gpt2', expected a transformers.PreTrainedTokenizerBase"),
        (lambda: cached_tokens("book.txt", None, None), "corpus is 'book.txt', expected a Corpus"),
        (lambda: fit_floor([1, 2], [[1.0, -1.0]]), "entry 0, 1 of mi is -1"),
        (lambda: fit_floor([1, 2, 4], [[1.0, 2.0]]), "a column for each"),
        (lambda: fit_two_point(PANDAS), "convert it with polars.from_pandas"),
        (lambda: fit_two_point(TABLE), "column 'distance'"),
        (lambda: compare_floors(TABLE, level=95), "level 95 is no confidence level"),
    ],
    "gaussian": [
        (lambda: SubvolumeGaussian(2.0), "SubvolumeGaussian: layers is 2.0, expected a whole number: write 2"),
        (lambda: SubvolumeGaussian(20), "layers at most 15"),
        (lambda: LogarithmicGaussian.of_length("16"), "length is '16', expected a whole number"),
        (lambda: LogarithmicGaussian.of_length(15), "length 15 is not a power of four"),
        (lambda: DenseGaussian(np.eye(3)), "matrix is a numpy.ndarray of shape (3, 3), expected a torch.Tensor"),
        (lambda: DenseGaussian(torch.eye(3), copies=0), "copies is 0, expected a whole number, at least 1"),
        (
            lambda: SubvolumeGaussian(2).sample(3, 16, NUMPY),
            "generator is a numpy.Generator, expected a torch.Generator or None",
        ),
        (lambda: SubvolumeGaussian(2).sample(0, 16), "n is 0, expected a whole number, at least 1"),
        (lambda: SubvolumeGaussian(2).sample(1, 16, device="abacus"), "device 'abacus' is unknown"),
        (
            lambda: SubvolumeGaussian(2).conditionals(np.zeros((1, 16, 1))),
            "z is a numpy.ndarray of shape (1, 16, 1), expected a torch.Tensor",
        ),
        (lambda: SubvolumeGaussian(2).covariance(torch.tensor([0]), torch.tensor([16])), "from 0 to 15"),
        (lambda: SubvolumeGaussian(2).pair_mi([0], ["a"]), "j is ['a'], expected numbers"),
        (lambda: SubvolumeGaussian(2).pair_mi([0.5], [1]), "from 0 to 15"),
        (lambda: SubvolumeGaussian(2).bipartite_mi("half", 16), "split is 'half', expected a whole number"),
        (
            lambda: SubvolumeGaussian(2).sample(1, 17),
            "length 17: the blocks of 'sub-volume Gaussian, blocks of 16' end before, choose length <= 16",
        ),
        (lambda: SubvolumeGaussian(2).block_entropy(-1), "length is -1, expected a whole number, at least 0"),
        (
            lambda: LogarithmicGaussian(3).bipartite_mi(8, 16),
            "only whole blocks of 64 are known, take LogarithmicGaussian.of_length(16)",
        ),
        (lambda: DenseGaussian(torch.eye(3)).two_point_mi(0), "distance is 0, expected a whole number, at least 1"),
    ],
    "processes": [
        (lambda: SantaFe("0.5", 10), "exponent is '0.5', expected a finite number"),
        (lambda: SantaFe(0.5, 10**12), "facts = 1000000000000: choose a whole number >= 2, at most"),
        (lambda: FACTS.sample(2, 8, NUMPY), "sample: generator is a numpy.Generator, expected a torch.Generator"),
        (lambda: FACTS.sample(2, 8, 7), "generator is 7, expected a torch.Generator"),
        (lambda: URN.sample(2, -8, GENERATOR), "length is -8, expected a whole number, at least 1"),
        (lambda: Purse().sample(2.0, 8, GENERATOR), "n is 2.0, expected a whole number, at least 1: write 2"),
        (
            lambda: Renewal().sample(10**30, 8, GENERATOR),
            "n is 1000000000000000000000000000000, expected a whole number",
        ),
        (lambda: MarkovChain(((1.0,),)).sample(None, 8, GENERATOR), "n is None, expected a whole number"),
        (lambda: FACTS.logprobs([[1, 2]]), "contexts is [[1, 2]], expected a torch.Tensor"),
        (lambda: FACTS.logprobs(FLOATS), "torch.float32: expected token ids [batch, n]"),
        (lambda: FACTS.token_logprobs(FLOATS), "torch.float32: expected token ids [batch, n]"),
        (lambda: FACTS.token_logprobs(NEGATIVE), "token id -1 is not in the vocabulary"),
        (lambda: FACTS.token_logprobs(None), "tokens is None, expected a torch.Tensor"),
        (lambda: FACTS.block_entropy(-1), "length is -1, expected a whole number, at least 0"),
        (lambda: URN.block_entropy(1.5), "length is 1.5, expected a whole number, at least 0"),
        (lambda: URN.bipartite_mi(1.5, 4), "split is 1.5, expected a whole number"),
        (lambda: Renewal().two_point_mi(0), "distance is 0, expected a whole number, at least 1"),
        (lambda: Purse().two_point_mi("far"), "distance is 'far', expected a whole number"),
        (lambda: Renewal(math.nan), "tail is nan, expected a finite number"),
        (lambda: Renewal(1.0), "tail 1.0 leaves gaps without a mean"),
        (lambda: Purse(0.5), "coins is 0.5, expected a list of finite numbers: write [0.5]"),
        (lambda: MarkovChain([[0.5, "0.5"]]), "transition is [[0.5, '0.5']], expected numbers along 2 axes"),
        (lambda: PolyaUrn(0), "choose at least 2 colours"),
        (lambda: Mixed("urn", 0.5, (0.5, 0.5)), "scorer is 'urn', expected a SequenceScorer"),
        (lambda: Truncated(URN, 1.5), "window is 1.5, expected a whole number"),
        (lambda: Forgetful(URN), "process is a PolyaUrn, expected a SantaFe"),
        (lambda: Forgetful(FACTS).recall(-1), "distances is -1, expected a whole number, at least 0"),
        (lambda: Opening(URN, None), "tokens is None, expected a whole number"),
        (lambda: process_windows(URN, 8, 0, GENERATOR), "n is 0, expected a whole number, at least 1"),
        (lambda: process_windows("urn", 8, 2, GENERATOR), "process is 'urn', expected a SequenceScorer"),
        (
            lambda: URN.limits(FACTS, 2, 4),
            "the limits of 'Pólya's urn, 3 colours' on 'Santa Fe 0.5, 20 facts' are not known: let it read an urn",
        ),
        (lambda: FACTS.limits(URN, 2, 4), "are not known: let it read the process itself"),
        (
            lambda: Mixed(FACTS, 0.5, (1 / 40,) * 40).limits(FACTS, 2, 4),
            "let it read an urn, and mix an urn of as many colours",
        ),
        (
            lambda: Truncated(FACTS, 2).limits(URN, 2, 4),
            "let it read a stationary process that is its own scorer behind the window",
        ),
        (
            lambda: Truncated(SantaFe(0.5, 20, "query"), 2).limits(SantaFe(0.5, 20, "query"), 2, 4),
            "let it read a stationary process",
        ),
        (lambda: Truncated(Mixed(URN, 0.5, (1 / 3,) * 3), 2).limits(URN, 2, 4), "let it read a stationary process"),
        (
            lambda: Opening(FACTS, 2).limits(SantaFe(0.6, 20), 2, 4),
            "let it read the process that is its own scorer behind the opening",
        ),
        (lambda: Forgetful(FACTS).limits(URN, 2, 4), "let it read 'Santa Fe 0.5, 20 facts'"),
        (lambda: URN.limits("urn", 2, 4), "source is 'urn', expected a Source"),
    ],
    "formulas": [
        (lambda: check_block(1.0, 4), "split is 1.0, expected a whole number: write 1"),
        (lambda: check_tokens(NEGATIVE, None), "scorer is None, expected a SequenceScorer"),
        (lambda: mentions(FLOATS), "torch.float32: expected integers [n, length]"),
        (lambda: _render_mentions(NEGATIVE, FLOATS, FACTS), "expected integers of one shape"),
        (lambda: _read_mentions(FLOATS, FACTS), "expected token ids [batch, n]"),
        (lambda: recalled_logprobs(FACTS, torch.tensor([[0, 1]]), torch.zeros(0)), "recall of shape (0,)"),
        (lambda: _zipf(0, 0.5), "facts is 0, expected a whole number, at least 1"),
        (lambda: _zipf(5, 0), "exponent 0 is not positive"),
        (lambda: _heard(3, np.array([1.5])), "between 0 and 1"),
        (lambda: latest_mention(FACTS, 0), "distances is 0, expected a whole number, at least 1"),
        (lambda: pairs_at(0, 4), "split 0 lies outside the block of 4 tokens"),
        (lambda: divergence(np.array([-0.1, 1.1]), np.array([0.5, 0.5])), "none negative"),
        (lambda: divergence(np.ones(2) / 2, np.ones(3) / 3), "of one shape"),
        (lambda: _beta_binomial(3, 0.0, 1.0), "choose positive numbers"),
        (lambda: _unseen(-1, 1.5), "n is -1, expected a finite number, above -1"),
        (lambda: _unseen(3, math.nan), "tail is nan, expected a finite number"),
        (lambda: _hazards(3, 0.5), "tail 0.5 leaves gaps without a mean"),
        (lambda: _age_table(3, 3, math.nan), "tail is nan, expected a finite number"),
        (lambda: _repeats("three", 1.5), "distance is 'three', expected a whole number, at least 0"),
        (lambda: _stationary(np.ones((2, 2))), "expected square rows of probabilities that add up to 1"),
    ],
    "ngrams": [
        (lambda: count_ngrams([[0.5, 1.5]], 2, 3), "document 0 holds torch.float32, expected whole token ids"),
        (lambda: count_ngrams(["abc"], 2, 3), "document 0 is str, expected a list of token ids"),
        (lambda: count_ngrams("abc", 2, 3), "documents is 'abc', expected a list"),
        (lambda: count_ngrams([[0]], 1.5, 3), "order is 1.5, expected a whole number"),
        (lambda: count_ngrams([[0]], 2, 0), "vocabulary is 0, expected a whole number, at least 1"),
        (lambda: count_ngrams([[0]], 2, 3, device="abacus"), "device 'abacus' is not on this machine"),
        (lambda: _count_levels([[0, 7]], 2, 3), "token ids 0…7"),
        (lambda: Ngrams(None, 3, 2), "levels is None, expected a list"),
        (lambda: COUNTED.logprobs(FLOATS), "expected token ids [batch, n]"),
        (lambda: _earlier(FLOATS), "expected integers [batch, n]"),
        (lambda: Adaptive(None, (1.0,)), "base is None, expected a SequenceScorer"),
        (lambda: Adaptive(COUNTED, 1.0), "strengths is 1.0, expected a list of finite numbers: write [1.0]"),
        (lambda: Adaptive(COUNTED, (math.nan,)), "strengths is (nan,), expected a list of finite numbers"),
        (lambda: fit_strengths(COUNTED, FLOATS, 0), "histories is 0, expected a whole number, at least 1"),
    ],
    "ising": [
        (lambda: IsingLattice(True, 3), "width is True, expected a whole number"),
        (lambda: IsingLattice(10**6, 3), "choose a smaller width"),
        (lambda: IsingLattice(3, 3, "hot"), "temperature is 'hot', expected a finite number"),
        (lambda: LATTICE.sample(2, 9, NUMPY), "generator is a numpy.Generator, expected a torch.Generator"),
        (lambda: window_entropies(LATTICE.lattice, 1.5), "window is 1.5, expected a whole number"),
        (lambda: correlations(LATTICE.lattice, None), "site is None, expected a whole number"),
        (lambda: LATTICE.token_logprobs(FLOATS), "expected token ids [batch, n]"),
        (lambda: LATTICE.token_logprobs(torch.tensor([[0, 1]]), "end"), "start is 'end', expected a whole number"),
        (lambda: LATTICE.logprobs(None), "contexts is None, expected a torch.Tensor"),
        (lambda: coin_entropy([0.0]), "odds is [0.0], expected a torch.Tensor"),
        (lambda: spin_information([0.5, 1.5]), "correlation 1.5 lies outside -1 to 1"),
        (lambda: spin_information(math.nan), "correlation is nan, expected a finite number"),
    ],
    "training": [
        (lambda: Plan(0, 8, 0.1, warmup=0), "steps=0"),
        (lambda: Plan(8.0, 8, 0.1, warmup=0), "steps is 8.0, expected a whole number: write 8"),
        (lambda: Plan(8, "8", 0.1, warmup=0), "batch is '8', expected a whole number"),
        (lambda: Plan(8, 8, "1e-3", warmup=0), "learning_rate is '1e-3', expected a finite number"),
        (lambda: Plan(8, 8, 0.1, warmup=0, seed=None), "seed is None, expected a whole number"),
        (lambda: Plan(8, 8, 0.1, warmup=0, autocast=16), "autocast is 16, expected text or None"),
        (lambda: GaussianTask(FACTS), "process is a SantaFe, expected a GaussianProcess"),
        (lambda: DiscreteTask("facts", 8), "process is 'facts', expected a SequenceScorer"),
        (lambda: DiscreteTask(FACTS, 0), "length is 0, expected a whole number, at least 1"),
        (lambda: TextTask(FLOATS, 4), "torch.float32: expected int64 token ids [windows, length] from 0 to 3"),
        (lambda: TextTask(NEGATIVE, 4), "from 0 to 3"),
        (lambda: train(None, GaussianTask(SubvolumeGaussian(1)), None), "model is None, expected a torch.Module"),
        (lambda: train(torch.nn.Linear(1, 1), "text", None), "task is 'text', expected a Task"),
        (
            lambda: train(torch.nn.Linear(1, 1), DiscreteTask(FACTS, 8), {"steps": 3}),
            "plan is {'steps': 3}, expected a Plan",
        ),
        (
            lambda: train(torch.nn.Linear(1, 1), DiscreteTask(FACTS, 8), Plan(1, 1, 0.1, 0), save_every=0),
            "save_every is 0, expected a whole number, at least 1",
        ),
        (
            lambda: evaluate(torch.nn.Linear(1, 1), DiscreteTask(FACTS, 8), 2.0, 2),
            "n is 2.0, expected a whole number: write 2",
        ),
        (
            lambda: evaluate(torch.nn.Linear(1, 1), DiscreteTask(FACTS, 8), 2, 2, first=-1),
            "first is -1, expected a whole number, at least 0",
        ),
        (
            lambda: evaluate(torch.nn.Linear(1, 1), DiscreteTask(FACTS, 8), 2, 2, autocast="int8"),
            "autocast is 'int8', expected one of 'bfloat16' or None",
        ),
        (lambda: measured("store", "run", gpt2, None, None, 2, 2), "store is 'store', expected a Store"),
        (lambda: Checkpoint("run", {}), "path is 'run', expected a Path"),
        (lambda: gaussian_kl(0.0, *[torch.ones(1)] * 3), "mean is 0.0, expected a torch.Tensor"),
        (lambda: token_nll(gpt2, FLOATS), "torch.float32: expected int64 [n, length]"),
        (lambda: generator_of("abacus"), "device 'abacus' is not on this machine"),
        (lambda: smooth(TABLE, "nll", 0.1), "the table has no column 'nll'"),
        (lambda: smooth(TABLE, "kl", -0.1), "average_stderr is -0.1, expected a finite number, at least 0"),
        (lambda: smooth(PANDAS, "kl", 0.1), "convert it with polars.from_pandas"),
        (lambda: collapse([1, 2], [1, math.nan]), "entry 1 of y is nan"),
        (lambda: collapse([1, 2, 3, 4], [1, 2, 3]), "expected as many of each"),
        (lambda: collapse([1, 2, 3, 4], [5, 5, 5, 5]), "y that differ"),
        (lambda: collapse([1, 2, 3, 4], [1, 2, 3, 5], degree=-1), "degree is -1, expected a whole number, at least 0"),
        (lambda: collapse([1, 2, 3, 4], [1, 2, 3, 5]).predict(0), "x is 0, expected a finite number, above 0"),
    ],
    "models": [
        (lambda: Shape(2, 32, 2, 0, None), "length is 0, expected a whole number, at least 1"),
        (lambda: gpt2({"layers": 2}), "shape is {'layers': 2}, expected a Shape"),
        (lambda: layers_and_width(768), "size is 768, expected text"),
        (lambda: layers_and_width("1000000x32"), "at most 1000 layers"),
        (lambda: model_config(None, length=8), "name is None, expected text"),
        (lambda: model_config("gpt2", length=8.0), "length is 8.0, expected a whole number: write 8"),
        (
            lambda: model_config("gpt2", length=8, vocabulary=-1),
            "vocabulary is -1, expected a whole number, at least 0",
        ),
        (
            lambda: build_model("gpt2", length=8, vocabulary=0),
            "vocabulary is 0, expected a whole number, at least 1 or None",
        ),
        (lambda: build_model("gpt2", length=8, copies=2, seed=-1), "seed is -1, expected a whole number"),
        (
            lambda: build_model("mamba2", length=8, vocabulary=5, state="large"),
            "state is 'large', expected a whole number or None",
        ),
        (lambda: build_model("gpt2", length=8, vocabulary=5, device=0), "device is 0, expected text or a torch.device"),
        (lambda: known_device(None), "device is None, expected text or a torch.device"),
        (lambda: _clock(0), "length is 0, expected a whole number, at least 1"),
        (lambda: parameter_count("gpt2"), "model is 'gpt2', expected a torch.Module"),
        (lambda: model_arguments(["gpt2"]), "text is ['gpt2'], expected text"),
        (lambda: state_scalars("mamba2", length=8, read=-1), "read is -1, expected a whole number, at least 0"),
    ],
}


@pytest.mark.parametrize(
    "call, said",
    [pytest.param(*door, id=f"{module} {i}") for module, doors in DOORS.items() for i, door in enumerate(doors)],
)
def test_a_wrong_value_is_refused_at_the_door(call, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        call()
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(Path().iterdir()), "nothing is made before the door"
