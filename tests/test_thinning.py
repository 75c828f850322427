"A cache that is thinned while it reads: the mask against one that really drops, and the model as a scorer like any other."

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, DynamicCache, FalconConfig, MptConfig, OPTConfig

from l2m.bipartite import measure_bipartite
from l2m.estimators import Direct, bipartite_mi
from l2m.growth import Lifetimes
from l2m.models import build_model
from l2m.processes import PolyaUrn, process_windows
from l2m.scoring import LanguageModel
from l2m.testing import check_scorer
from l2m.thinning import Sinks, ThinnedModel, cache_bytes, sinks_as_many, survival

RULES = [Lifetimes(0.0, 2.0), Lifetimes(0.5), Lifetimes(0.8, 2.0), Sinks(5, 2), Sinks(1, 1)]


def looking_back(bos, kind="llama", **options):
    "A model whose attention is sharp, in double precision."
    model = build_model(kind, length=64, vocabulary=5, seed=3, **options).double()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return LanguageModel(model, None, kind, bos)


IDS = torch.randint(5, (2, 40), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def with_a_cache_that_drops(scorer, rule, split, tokens):
    "Token by token: before each one what the rule no longer shows it is taken out of the cache, up to the first token of Y."
    bos = [] if scorer.bos is None else [torch.full((len(tokens), 1), scorer.bos)]
    read, cut = torch.cat([*bos, tokens], 1), split + len(bos)
    cache, there, nats, held = DynamicCache(config=scorer.model.config), [], [], []
    for t in range(read.shape[1]):
        if t <= cut:
            stays = [i for i, place in enumerate(there) if bool(rule.sees(torch.tensor(t), torch.tensor(place)))]
            for layer in cache.layers if there else []:
                layer.keys, layer.values = layer.keys[:, :, stays], layer.values[:, :, stays]
            there = [there[i] for i in stays]
            held.append(len(there))
        place = torch.full((len(read), 1), t)
        logits = scorer.model(read[:, t : t + 1], past_key_values=cache, position_ids=place, use_cache=True).logits
        there.append(t)
        nats.append(logits[:, 0].log_softmax(-1))
    targets = read[:, 1:]
    logprobs = torch.stack(nats[:-1], 1).gather(2, targets[..., None])[..., 0]
    uniform = torch.full((len(tokens), 1 - len(bos)), -np.log(scorer.vocabulary), dtype=torch.double)
    return torch.cat([uniform, logprobs], 1), held


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("bos", [5, None])
def test_the_mask_is_a_cache_that_really_drops(rule, bos):
    scorer = looking_back(bos)
    thinned = ThinnedModel(scorer, rule, 24)
    expected, held = with_a_cache_that_drops(scorer, rule, 24, IDS)
    found = thinned.logprobs(IDS)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    assert held[-1] == thinned.entries and held == [int(rule.alive(t)) for t in range(len(held))]
    if thinned.entries < 20:  # and it is another model than the whole one
        assert (found - scorer.logprobs(IDS)[0]).abs()[:, 24:].max() > 0.01


@pytest.mark.parametrize("rule", [Lifetimes(1.0), Sinks(60)], ids=str)
def test_with_everything_alive_it_is_the_model_itself(rule):
    scorer = looking_back(5)
    thinned = ThinnedModel(scorer, rule, 24)
    torch.testing.assert_close(thinned.logprobs(IDS)[0], scorer.logprobs(IDS)[0], rtol=0, atol=1e-8)
    assert thinned.entries == 25 and bool((thinned.mask(30) == torch.ones(30, 30).tril().bool()).all())


@pytest.mark.parametrize("bos", [5, None])
def test_it_keeps_the_promises_of_a_scorer(bos):
    check_scorer(ThinnedModel(looking_back(bos), Lifetimes(0.5), 8), IDS[:, :12], tolerance=1e-6)


def test_equal_settings_alone_have_equal_fingerprints():
    scorer, other = looking_back(5), looking_back(None)
    kinds = [
        (scorer, Lifetimes(0.5), 8),
        (scorer, Lifetimes(0.5), 9),
        (scorer, Lifetimes(0.6), 8),
        (scorer, Sinks(9), 8),
    ]
    prints = [ThinnedModel(*kind).fingerprint for kind in kinds]
    assert len(set(prints)) == len(kinds) and prints[0] == ThinnedModel(*kinds[0]).fingerprint
    assert ThinnedModel(other, Lifetimes(0.5), 8).bos is None


@pytest.mark.parametrize("kind", ["sliding", "mamba2", "hybrid"])
def test_other_memories_than_keys_and_values_of_every_token_are_refused(kind):
    scorer = LanguageModel(build_model(kind, length=64, vocabulary=5), None, kind, 5)
    with pytest.raises(
        ValueError, match=f"'{kind}' does not keep keys and values of every token alone .*choose a model"
    ):
        ThinnedModel(scorer, Lifetimes(0.5), 8)


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=5, hidden_size=32, n_layer=1, n_head=2),
        FalconConfig(vocab_size=5, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, alibi=True),
        OPTConfig(vocab_size=5, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=32),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_that_takes_no_mask_is_refused(config):
    scorer = LanguageModel(AutoModelForCausalLM.from_config(config), None, "name", None)
    with pytest.raises(ValueError, match=rf"'name' \({config.model_type}\) takes no mask of its own for every query"):
        ThinnedModel(scorer, Lifetimes(0.5), 8)


def test_distances_by_place_are_right_under_a_mask():
    "MPT: a text with the same tokens alive in the same places gives the same numbers, whatever stood between"
    config = MptConfig(vocab_size=50, d_model=32, n_layers=2, n_heads=4, max_seq_len=256)
    thinned = ThinnedModel(LanguageModel(AutoModelForCausalLM.from_config(config), None, "mpt", None), Sinks(3, 1), 20)
    other = IDS.clone()
    other[:, 1:10] = (other[:, 1:10] + 1) % 5
    torch.testing.assert_close(thinned.logprobs(IDS)[0][:, 21:], thinned.logprobs(other)[0][:, 21:])


@pytest.mark.parametrize("b", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("tokens", [9, 128, 513])
def test_both_rules_hold_as_many_at_the_cut(b, tokens):
    lifetimes = Lifetimes(b)
    assert int(sinks_as_many(lifetimes, tokens).alive(tokens)) == int(lifetimes.alive(tokens))


def test_a_window_that_has_no_room_beside_its_sinks_is_refused():
    with pytest.raises(ValueError, match="3 entries are no more than 4 sinks"):
        sinks_as_many(Lifetimes(1.0), 3)


def test_the_share_that_survives_is_a_ratio_with_an_error_over_documents():
    drawn = process_windows(PolyaUrn(5, 1.0), 40, 32, torch.Generator().manual_seed(0))
    scorer = looking_back(5)
    read = lambda who, **passes: measure_bipartite(who, drawn, lengths=[32], shuffles=0, batch_size=16, **passes)
    whole, thinned = read(scorer), read(ThinnedModel(scorer, Lifetimes(0.3), 16), alone=False)
    with pytest.raises(ValueError, match="nats, of which no share can be told"):
        survival(replace(whole, joint=whole.joint - 0.2), thinned, 16, 32)  # as if X misled
    with pytest.raises(ValueError, match="thinned up to token 16, not 8"):
        survival(whole, thinned, 8, 32)
    found, itself = survival(whole, thinned, 16, 32), survival(whole, whole, 16, 32)
    assert itself.share == 1 and itself.stderr == pytest.approx(0, abs=1e-12)
    mi = [bipartite_mi(s, [Direct()])["mi"][0] for s in (whole, replace(whole, joint=thinned.joint))]
    assert found.mi == pytest.approx(mi[1]) and found.share == pytest.approx(mi[1] / mi[0])
    before, after = ((s.joint[:, 16:] - whole.alone[16]).sum(1) for s in (whole, thinned))
    without = np.array([np.delete(after, i).mean() / np.delete(before, i).mean() for i in range(len(before))])
    jackknife = np.sqrt((len(without) - 1) * np.mean((without - without.mean()) ** 2))  # another way to the error
    assert found.stderr == pytest.approx(jackknife, rel=0.1) and found.terms.mean() == pytest.approx(found.share)
    other = copy.copy(whole.token_ids)
    other[0, 0] = (other[0, 0] + 1) % 5
    with pytest.raises(ValueError, match="did not read the same windows"):
        survival(replace(whole, token_ids=other), thinned, 16, 32)
    assert cache_bytes(scorer, 17, "float32") == 17 * cache_bytes(scorer, 1, "float32")
