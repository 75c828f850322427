"What only a CUDA card can show: the same numbers as without one, and faster. Skipped as a whole where there is none."

import numpy as np
import pytest
import torch
from transformers import logging

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
logging.set_verbosity_error()

# Scoring

import copy

from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
)

from l2m.bipartite import measure_bipartite
from l2m.interface import Continuation
from l2m.probe import probe
from l2m.scoring import LanguageModel
from l2m.windows import Windows

SIZES = dict(vocab_size=97, hidden_size=64, num_hidden_layers=2, pad_token_id=0)
ATTENTION = dict(intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)
SCORED = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **ATTENTION)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=64, n_layer=2, n_head=4)),
    "mamba2": lambda: Mamba2ForCausalLM(
        Mamba2Config(**SIZES, num_heads=8, head_dim=16, state_size=8, n_groups=1, chunk_size=16)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, **ATTENTION, head_dim=16, sliding_window=8, final_logit_softcapping=1.0)
    ),
}


def both_places(name):
    "The same model on the CPU and on the card, probed."
    torch.manual_seed(0)
    model = SCORED[name]()
    scorers = [LanguageModel(copy.deepcopy(model).to(place), None, name, 1) for place in ("cpu", "cuda")]
    for scorer in scorers:
        probe(scorer)
    return scorers


def token_ids(seed, *shape):
    return torch.randint(97, shape, generator=torch.Generator().manual_seed(seed))


def random_windows(n, length):
    tokens = token_ids(0, n, length)
    ones = torch.ones_like(tokens, dtype=torch.int32)
    return Windows(tokens, [str(i) for i in range(n)], [0] * n, ones, "random", "0", "ids")


@pytest.mark.parametrize("name", SCORED)
def test_a_card_gives_the_scores_of_the_processor(name):
    "Walked, side by side, and in between."
    host, card = both_places(name)
    assert card.pass_tokens and card.reuses_state == host.reuses_state and card.direct
    after = [Continuation(s, token_ids(2 + s, 3, m)) for s, m in ((0, 20), (0, 1), (8, 12), (20, 20), (40, 9))]
    read, branches = host.logprobs(token_ids(1, 3, 40), after)
    for card.pass_tokens in (0, 30, 8192):
        again, found = card.logprobs(token_ids(1, 3, 40), after)
        for a, b in zip([read, *branches], [again, *found]):
            torch.testing.assert_close(a, b.cpu(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SCORED)
def test_a_causal_model_is_causal_on_a_card(name):
    for dtype in (torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        probe(LanguageModel(SCORED[name]().to("cuda", dtype), None, name, 1))


def test_a_batch_is_halved_where_the_card_is_full():
    _, card = both_places("llama")
    windows, plain, tried = random_windows(32, 64), card.logprobs, []
    whole = measure_bipartite(card, windows, lengths=[8, 64], batch_size="auto")

    def greedy(contexts, after=()):
        tried.append(len(contexts))
        torch.empty(torch.cuda.mem_get_info()[1] * len(contexts) // 10, dtype=torch.uint8, device="cuda")
        return plain(contexts, after)

    card.logprobs = greedy
    halved = measure_bipartite(card, windows, lengths=[8, 64], batch_size="auto")
    assert tried[0] == 32 and tried[-1] < 10
    np.testing.assert_allclose(halved.joint, whole.joint, atol=1e-5)


def test_the_largest_slice_leaves_room():
    from l2m.heads import logits_at_once

    assert 2**20 <= logits_at_once(torch.device("cuda")) <= 2**28
