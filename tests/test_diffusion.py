"Models that fill gaps: bounds and information against truth, resuming, networks, what is refused, and what the audit says."

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from l2m.audit import audit, summary
from l2m.bipartite import measure_bipartite
from l2m.coupled import by_order, coupled_mi, measure_coupled, variance_ratio
from l2m.diffusion import (
    BlockDiffusion,
    Enumerated,
    MaskedModel,
    MaskedTask,
    block_masks,
    build_diffusion,
    code_length,
    draw_masks,
    load_diffusion,
    masked_nats,
)  # fmt: skip
from l2m.estimators import Direct, LeaveOneOut, bipartite_mi
from l2m.ising import IsingLattice
from l2m.loading import load_scorer
from l2m.models import build_model, model_config, parameter_count
from l2m.processes import MarkovChain, PolyaUrn, process_windows
from l2m.santa_fe import SantaFe
from l2m.scaling import fit_laws
from l2m.state import history_state
from l2m.tasks import DiscreteTask
from l2m.training import Plan, evaluate, train

SHEET = IsingLattice(3, 4, 2.0)
CHAIN = MarkovChain(((0.8, 0.2), (0.3, 0.7)))


def drawn(process, length, n, seed=0):
    return process_windows(process, length, n, torch.Generator().manual_seed(seed))


def network(length=12, vocabulary=2, seed=0):
    return MaskedModel(
        build_diffusion("1x32", length=length, vocabulary=vocabulary, seed=seed), None, "net", vocabulary
    )


@pytest.mark.parametrize(
    ("process", "length", "split"),
    [
        (SHEET, 12, 5),
        (CHAIN, 6, 2),
        (PolyaUrn(3, 0.5), 5, 3),
        (SantaFe(0.7, 3, "fact", 2), 4, 2),
        (SantaFe(math.inf, 2, "fact", 3), 4, 1),
    ],
    ids=str,
)
def test_the_mean_over_all_masks_of_an_optimal_denoiser_is_exact(process, length, split):
    exact, text = Enumerated(process), drawn(process, length, 1).tokens
    m, y = length - split, range(split, length)
    masks = torch.tensor(list(product([False, True], repeat=m))[1:])
    weights = torch.tensor([1 / m / math.comb(m, int(k)) for k in masks.sum(1)], dtype=torch.float64)
    rows = text.expand(len(masks), -1)
    after = (weights * masked_nats(exact, rows, y, range(split), masks)).sum()
    truth = process.token_logprobs(text).sum() - process.token_logprobs(text[:, :split]).sum()
    assert torch.allclose(after, truth.double())


@pytest.mark.parametrize(("length", "split"), [(12, 6), (12, 3), (12, 9)])
def test_exact_information_from_both_sides_at_any_split(length, split):
    ratio = {6: 2, 3: 4}.get(split)
    windows = drawn(SHEET, 12, 100, split)
    if ratio is None:  # a split that no ratio gives: the terms by hand
        x, y, masks = range(split), range(split, length), draw_masks(100 * 8, length - split, torch.Generator())
        rows = windows.tokens.repeat_interleave(8, 0)
        terms = [masked_nats(Enumerated(SHEET), rows, y, given, masks) for given in (x, range(0))]
        values = (terms[0] - terms[1]).view(100, 8).mean(1)
        assert abs(values.mean() - SHEET.bipartite_mi(split, 12)) < 4 * values.std() / 10
        return
    table = coupled_mi(measure_coupled(Enumerated(SHEET), windows, lengths=[12], ratios=[ratio], draws=8))
    limits = SHEET.limits(SHEET, split, 12)
    for row in table.iter_rows(named=True):
        truth = limits["vclub"] if row["method"] == "vclub" else limits["direct"]
        assert abs(row["mi"] - truth) < 4 * row["stderr"] and 0 < row["mc_stderr"] < row["stderr"]


def test_the_same_mask_scatters_less_and_the_saving_is_that_of_masks_apart():
    exact, texts, n = Enumerated(SHEET), drawn(SHEET, 12, 8).tokens, 100
    ratio = variance_ratio(measure_coupled(exact, drawn(SHEET, 12, 24), lengths=[12], draws=24)).filter(method="direct")
    assert ratio["ratio"][0] < 0.5
    rows, generator = texts.repeat_interleave(n, 0), torch.Generator().manual_seed(0)
    one, two = (draw_masks(len(rows), 6, generator) for _ in range(2))
    after = masked_nats(exact, rows, range(6, 12), range(6), one).view(8, n)
    same, apart = (masked_nats(exact, rows, range(6, 12), range(0), m).view(8, n) for m in (one, two))
    found = (after - same).var(1).mean() / (after - apart).var(1).mean()
    assert abs(found - ratio["ratio"][0]) < 0.15


def test_masks_have_every_size_as_often():
    masks = draw_masks(6000, 5, torch.Generator().manual_seed(0))
    counts = torch.bincount(masks.sum(1), minlength=6)
    assert counts[0] == 0 and ((counts[1:] - 1200).abs() < 5 * 1200**0.5).all()
    assert ((masks.float().mean(0) - 0.6).abs() < 0.03).all()


def is_a_question(hidden, asked):
    "Whether there is a block and a cut of which one part is asked for in part, the other shown or hidden whole, and the rest hidden."
    places = range(len(hidden))
    for end, shown in product(range(2, len(hidden) + 1), (True, False)):
        for cut in range(1, end):
            for target, other in ((range(cut), range(cut, end)), (range(cut, end), range(cut))):
                wanted = [i not in other if shown else True for i in places]
                wanted = [asked[i] if i in target else w for i, w in enumerate(wanted)]
                if hidden == wanted and all(i in target for i in places if asked[i]):
                    return True
    return False


def test_block_masks_ask_for_one_part_of_a_block_and_show_at_most_the_other():
    hidden, asked = (t.tolist() for t in block_masks(300, 6, torch.Generator().manual_seed(0)))
    assert all(any(a) and is_a_question(h, a) for h, a in zip(hidden, asked))
    assert not is_a_question([True, True, False, True], [True, False, False, False])
    assert len(set(map(tuple, hidden))) > 20
    task = MaskedTask(DiscreteTask(CHAIN, 8), 0.5)
    tokens, hidden, asked = task.draw(0, 8, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert (asked <= hidden).all() and (asked[4:] == hidden[4:]).all() and (asked[:4] != hidden[:4]).any()
    assert task.describe() != MaskedTask(DiscreteTask(CHAIN, 8)).describe()
    scores = task.scores(build_diffusion("1x32", length=8, vocabulary=2), (tokens, hidden, asked))["nll"]
    assert ((scores > 0) == asked).all()


def test_resumed_in_parts_and_in_another_order_it_gives_the_same_numbers(tmp_path):
    windows, options = drawn(SHEET, 12, 10), dict(lengths=[6, 12], draws=4, batch_size=3)
    reader = network()
    whole = measure_coupled(reader, windows, **options)
    measure_coupled(reader, windows, store=tmp_path / "store", **options)
    shards = sorted((tmp_path / "store").glob("scores-*"))
    assert len(shards) == 4
    kept = shards[2].read_bytes()
    for shard in shards[:2]:
        shard.unlink()
    again = measure_coupled(reader, windows, store=tmp_path / "store", **options)
    assert (
        all(np.array_equal(whole.nats[key], again.nats[key]) for key in whole.nats) and shards[2].read_bytes() == kept
    )
    for other in (dict(draws=5), dict(seed=1), dict(lengths=[12])):
        with pytest.raises(ValueError, match="made with other parameters"):
            measure_coupled(reader, windows, store=tmp_path / "store", **options | other)


def test_numbers_do_not_depend_on_how_many_windows_are_read_at_once():
    windows, reader = drawn(SHEET, 12, 6), Enumerated(SHEET)
    one, all_ = (measure_coupled(reader, windows, lengths=[12], draws=4, batch_size=b) for b in (1, 6))
    assert all(np.allclose(one.nats[key], all_.nats[key]) for key in one.nats)


def test_a_network_reads_many_texts_in_parts(monkeypatch):
    reader, text = network(), drawn(SHEET, 12, 9).tokens
    hidden = draw_masks(9, 12, torch.Generator().manual_seed(0))
    whole = reader.hidden_logprobs(text, hidden)
    monkeypatch.setattr("l2m.diffusion._MOST_LOGITS", 4 * 12 * 3)
    assert torch.allclose(reader.hidden_logprobs(text, hidden), whole, atol=1e-5)
    assert (whole[~hidden] == 0).all() and (whole[hidden] < 0).all()


def test_tables_have_the_columns_of_a_left_to_right_model_and_laws_are_fitted_to_them():
    windows = drawn(CHAIN, 12, 16)
    there = bipartite_mi(measure_bipartite(CHAIN, windows, lengths=[4, 8, 12]))
    scores = measure_coupled(network(), windows, lengths=[4, 8, 12], draws=3)
    here = coupled_mi(scores)
    assert set(here.columns) - {"mc_stderr"} == set(there.columns)
    assert all(here.schema[name] == there.schema[name] for name in there.columns)
    assert set(here["method"]) == {"direct", "vclub", "back"} and len(fit_laws(here)) == 3
    assert coupled_mi(scores, [LeaveOneOut(1)])["mc_stderr"].null_count() == 3
    alone = measure_coupled(network(), windows, lengths=[4], shuffles=0, draws=3)
    assert set(coupled_mi(alone)["method"]) == {"direct", "back"}
    with pytest.raises(ValueError, match="measure with shuffles >= 3"):
        coupled_mi(scores, [Direct(), LeaveOneOut(3)])


def test_orders_agree_for_the_optimal_denoiser_and_not_for_a_network():
    texts = drawn(SHEET, 12, 8).tokens
    exact, learned = (by_order(one, texts, 6) for one in (Enumerated(SHEET), network()))
    assert np.ptp(exact["mi"].to_numpy()) < 1e-9 and exact["of_text"][0] < 1e-9 < 1e-4 < learned["of_text"][0]
    truth = SHEET.token_logprobs(texts)[:, 6:].sum(1).mean() / -6
    assert np.allclose(exact["nll"], truth)


def test_a_bound_is_no_lower_than_the_entropy_and_training_brings_it_near():
    model, task = build_diffusion("1x32", length=8, vocabulary=2), MaskedTask(DiscreteTask(CHAIN, 8))
    assert parameter_count(model) == parameter_count(build_model("llama", "1x32", length=8, vocabulary=2))
    train(model, task, Plan(150, 32, 0.01, warmup=10))
    texts, entropy = drawn(CHAIN, 8, 300).tokens, CHAIN.block_entropy(8)
    nats, error = code_length(MaskedModel(model, None, "net", 2), texts, 8, torch.Generator().manual_seed(1))
    assert entropy - 4 * nats.std() / 300**0.5 < nats.mean() < entropy + 0.5 and (error > 0).all()
    by_task = evaluate(model, task, 300, 100).averages
    assert abs(by_task["nll"] - nats.mean() / 8) < 5 * (by_task["nll_stderr"] + nats.std() / 300**0.5 / 8)


def test_training_that_was_killed_ends_in_the_same_weights(tmp_path, monkeypatch):
    task, plan = MaskedTask(DiscreteTask(CHAIN, 8)), Plan(6, 4, 0.01, warmup=1)
    once, twice = (build_diffusion("1x32", length=8, vocabulary=2) for _ in range(2))
    train(once, task, plan)
    own, calls = MaskedTask.scores, []

    def dies(self, model, batch):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return own(self, model, batch)

    monkeypatch.setattr(MaskedTask, "scores", dies)
    with pytest.raises(KeyboardInterrupt):
        train(twice, task, plan, tmp_path, save_every=2)
    twice = build_diffusion("1x32", length=8, vocabulary=2, seed=9)
    train(twice, task, plan, tmp_path, save_every=2)
    assert len(calls) < 5 + 6 and all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters()))


def test_a_folder_comes_back_and_what_fills_no_gaps_is_refused(tmp_path):
    reader, (a, b, c) = network(), (tmp_path / name for name in "abc")
    reader.model.save_pretrained(a)
    text, hidden = drawn(SHEET, 12, 3).tokens, draw_masks(3, 12, torch.Generator().manual_seed(0))
    again = load_diffusion(a, device="cpu", dtype="float32")
    assert torch.equal(again.hidden_logprobs(text, hidden), reader.hidden_logprobs(text, hidden))
    assert again.fingerprint == reader.fingerprint != network(seed=1).fingerprint
    build_model("llama", length=12, vocabulary=2).save_pretrained(b)
    with pytest.raises(ValueError, match="fills no gaps: name a masked diffusion model"):
        load_diffusion(b)
    shape = dict(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(BertConfig(**shape)).save_pretrained(c)
    with pytest.raises(ValueError, match="names no mask token: say which"):
        load_diffusion(c, device="cpu", dtype="float32")
    found = load_diffusion(c, mask=3, device="cpu", dtype="float32")
    assert found.vocabulary == 9 and found.mask == 3
    with pytest.raises(ValueError, match="holds the mask token"):
        found.hidden_logprobs(torch.full((1, 4), 3), torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="choose 0 <= mask < 9"):
        load_diffusion(c, mask=9, device="cpu", dtype="float32")
    for folder in (a, c):  # and as a scorer
        with pytest.raises(ValueError) as refused:
            load_scorer(folder, device="cpu", bos="none")
        assert "\n" not in str(refused.value)
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text(json.dumps(dict(model_type="mdlm", auto_map={"AutoConfig": "c.C"})))
    with pytest.raises(
        ValueError, match="code of its own; read that code, then pass trust_remote_code=True"
    ) as refused:
        load_diffusion(own)
    assert "\n" not in str(refused.value)


def test_a_model_with_code_of_its_own_is_read_when_the_caller_says_so_and_a_causal_one_still_refused(tmp_path):
    code = """
from transformers import LlamaConfig, LlamaForCausalLM, EuroBertConfig, EuroBertForMaskedLM
class GapConfig(EuroBertConfig):
    model_type = "gaps"
class Gaps(EuroBertForMaskedLM):
    config_class = GapConfig
class LeftConfig(LlamaConfig):
    model_type = "left"
class Left(LlamaForCausalLM):
    config_class = LeftConfig
"""
    for name, config, network_ in (
        ("Gap", "Gaps", build_diffusion("1x32", length=8, vocabulary=5)),
        ("Left", "Left", build_model("llama", "1x32", length=8, vocabulary=5)),
    ):
        folder = tmp_path / name
        network_.save_pretrained(folder)
        Path(folder / "own.py").write_text(code)
        values = json.loads((folder / "config.json").read_text()) | {
            "model_type": {"Gap": "gaps", "Left": "left"}[name]
        }
        values["auto_map"] = {"AutoConfig": f"own.{name}Config", "AutoModelForCausalLM": f"own.{config}"}
        (folder / "config.json").write_text(json.dumps(values))
    options = dict(device="cpu", dtype="float32", mask=5, trust_remote_code=True)
    assert load_diffusion(tmp_path / "Gap", **options).vocabulary == 5
    with pytest.raises(ValueError, match="reads from left to right: read it with load_scorer"):
        load_diffusion(tmp_path / "Left", **options)


def test_bad_input_ends_in_one_line():
    exact, text = Enumerated(SHEET), drawn(SHEET, 12, 2).tokens
    nowhere = torch.zeros_like(text, dtype=torch.bool)
    refused = [
        (lambda: exact.hidden_logprobs(text, nowhere[:, :3]), "expected true or false for each"),
        (lambda: exact.hidden_logprobs(text + 2, nowhere), "not in the vocabulary"),
        (lambda: exact.hidden_logprobs(text.float(), nowhere), "expected int64 token ids"),
        (lambda: Enumerated(SantaFe(0.7, 50)).hidden_logprobs(text, nowhere), "texts, more than"),
        (lambda: network(length=8).hidden_logprobs(text, nowhere), "exceed the 8-token context"),
        (lambda: masked_nats(exact, text, range(6, 12), range(6), nowhere[:, :6]), "each with a token hidden"),
        (lambda: measure_coupled(exact, drawn(SHEET, 12, 8), lengths=[14]), "draw windows of 14 tokens"),
        (lambda: measure_coupled(network(length=8), drawn(SHEET, 12, 8), lengths=[8]), "exceed the 8-token context"),
        (lambda: measure_coupled(CHAIN, drawn(CHAIN, 12, 8), lengths=[8]), "has no hidden_logprobs"),
        (lambda: measure_bipartite(network(), drawn(SHEET, 12, 8), lengths=[8]), "logprobs"),
        (lambda: by_order(exact, text, 12), "leaves nothing of 12 tokens for Y"),
        (lambda: build_diffusion("1x33", length=8, vocabulary=2), "width a multiple of 32"),
        (
            lambda: MaskedTask(DiscreteTask(CHAIN, 8)).check(build_model("llama", length=8, vocabulary=2), 1),
            "no mask token",
        ),
        (
            lambda: MaskedTask(DiscreteTask(CHAIN, 8)).check(build_diffusion(length=8, vocabulary=3), 1),
            "does not fit 2",
        ),
    ]
    for act, message in refused:
        with pytest.raises(ValueError) as found:
            act()
        assert message in str(found.value) and "\n" not in str(found.value), str(found.value)


def test_the_audit_says_that_the_condition_does_not_speak_of_them():
    causal = model_config("llama", "1x32", length=256, vocabulary=2)
    gaps = build_diffusion("1x32", length=256, vocabulary=2)
    models = [
        gaps,
        gaps.config,
        dict(model_type="bert"),
        dict(model_type="modernbert"),
        BlockDiffusion(causal, 16),
        causal,
    ]
    table = audit(models, lengths=[64, 250])
    for error in table["error"][:4]:
        assert "no history state, every step reads all tokens again, and the condition does not speak of it" in error
    assert table["error"][4:].to_list() == [None, None] and table["exponent"].to_list() == [None] * 4 + [1.0, 1.0]
    assert len(summary(table)) == len(models)
    each = history_state(causal, 2).scalars
    block = BlockDiffusion(causal, 16)
    for length in (1, 16, 17, 33, 250):
        assert history_state(block, length).scalars == (length - 1) // 16 * 16 * each
    assert table["scalars_250"].to_list()[4:] == [240 * each, 249 * each]
    decoder = dict(model_type="bert", is_decoder=True, num_hidden_layers=2)
    assert history_state(decoder, 9).scalars > 0  # the same family, reading from left to right
