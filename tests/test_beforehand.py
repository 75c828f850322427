"What is refused before a model or its library is loaded, and that it is what the measurement would refuse."

import json

import pytest
from transformers import LlamaConfig, Phi3Config

from l2m.beforehand import check_context, check_room, context_limit, windows_by_length
from l2m.corpora import load_corpus
from l2m.expansion import check_model, known_context, near_models
from l2m.loading import load_scorer, load_tokenizer


@pytest.mark.parametrize(
    "lengths, pairs, said",
    [
        ([4, 16], [8], "pairs \\[8\\] for lengths \\[4, 16\\]: choose for pairs one number of windows, or 2 numbers"),
        ([4, 16], [8, 8, 8], "or 2 numbers, one for each length"),
        ([4, 4], 8, "lengths \\[4, 4\\]: a law needs at least two lengths"),
        ([4, 16], 1, "choose at least 2"),
        ([4, 16], 0, "pairs is 0, expected"),
    ],
)
def test_every_length_has_its_windows(lengths, pairs, said):
    with pytest.raises(ValueError, match=said):
        windows_by_length(lengths, pairs)


@pytest.mark.parametrize(
    "length, begun, fits",
    [(32, True, True), (33, True, False), (33, False, True), (34, False, False), (33, None, True), (34, None, False)],
)
def test_a_text_is_read_up_to_its_last_token_but_one(length, begun, fits):
    "And one of which is not known whether a token begins it is refused only where that makes no difference"
    if fits:
        return check_context(length, 32, "m", begun)
    with pytest.raises(
        ValueError, match=f"length {length} exceeds the 32-token context of 'm': choose lengths <= 3"
    ) as e:
        check_context(length, 32, "m", begun)
    advised = int(str(e.value).split("<= ")[1])
    check_context(advised, 32, "m", True if begun is None else begun)
    with pytest.raises(ValueError):
        check_context(advised + 1, 32, "m", True if begun is None else begun)


def test_a_file_and_what_transformers_makes_of_it_have_one_limit(tmp_path):
    long = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16, "rope_theta": 1e4}
    long |= {"original_max_position_embeddings": 64}
    stretched = Phi3Config(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=256, original_max_position_embeddings=64,
        rope_parameters=long, pad_token_id=0,
    )  # fmt: skip
    for config, limit in ((LlamaConfig(max_position_embeddings=48), 48), (stretched, 64)):
        config.save_pretrained(tmp_path)
        assert context_limit(config) == context_limit(json.loads((tmp_path / "config.json").read_text())) == limit
        assert known_context(tmp_path) == limit


def test_the_context_of_the_embedded_model_is_known_once_it_was_converted():
    scorer = load_scorer("smollm2-135m", dtype="float32")
    assert known_context("smollm2-135m") == scorer.context_limit
    assert known_context("no/model") is None and known_context("./absent.gguf") is None


@pytest.mark.parametrize("size", [62, 64, 200])
def test_a_text_without_room_is_refused_and_one_with_room_is_not(tmp_path, size):
    "Whatever is refused beforehand would have been refused with the tokens known"
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("x" * size)
    if size < 64:
        with pytest.raises(ValueError, match="0 of its documents have 64 bytes or more, and two are the least"):
            check_room(tmp_path, 64, 2)
    else:
        check_room(tmp_path, 64, 2 * (size // 64))
        with pytest.raises(ValueError, match=f"have room for at most {2 * (size // 64)}, since a token"):
            check_room(tmp_path, 64, 2 * (size // 64) + 1)


def test_a_tokenizer_may_take_characters_apart_and_put_a_token_first(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("ﷺ" * 40)  # three bytes, 18 characters of 33 bytes once written out
    check_room(tmp_path, 18 * 40, 2)
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("x" * 63)
    check_room(tmp_path, 64, 2)


def test_no_more_documents_are_read_than_take_a_moment(tmp_path):
    (tmp_path / "many.jsonl").write_text('{"text": "short"}\n' * 3000)
    check_room(tmp_path / "many.jsonl", 64, 2)  # what is short can be told only when all are read


def test_bytes_of_a_document_are_never_fewer_than_its_tokens():
    tokenizer = load_tokenizer("smollm2-135m")
    for document in load_corpus("sotu", documents=3):
        assert len(tokenizer(document.text)["input_ids"]) <= len(document.text.encode())
    for text in ("𐎠𐎡𐎢", "ﷺ", "\x00\x01", "é" * 9, "x" * 999):
        assert len(tokenizer(text)["input_ids"]) <= len(text.encode())


def test_a_corpus_that_is_far_away_or_large_is_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr("l2m.beforehand.load_corpus", lambda *_, **__: pytest.fail("it was read"))
    check_room("hf:owner/name", 64, 8)
    with open(tmp_path / "large.txt", "wb") as file:
        file.truncate(31_000_000)
    check_room(tmp_path, 10**6, 100)
    with pytest.raises(FileNotFoundError, match="no corpus 'sotoo' \\(perhaps 'sotu' was meant\\)"):
        check_room("sotoo", 64, 8)


@pytest.mark.parametrize(
    "name, near",
    [
        ("smolm2-135m", " (perhaps 'smollm2-135m' was meant)"),
        ("SmolLM2-135M", " (perhaps 'smollm2-135m' was meant)"),
        ("gemma3", " (perhaps 'gemma3-270m' was meant)"),
        ("my-model", ""),
    ],
)
def test_a_name_without_a_slash_is_never_looked_up(name, near, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    for door in (check_model, load_scorer, load_tokenizer):
        with pytest.raises(FileNotFoundError) as error:
            door(name)
        assert str(error.value).startswith(f"no model at '{name}'{near}: give 'smollm2-135m', 'gemma3-270m', a folder")


@pytest.mark.parametrize("name", ["owner/name", "smollm2-135m", "smollm2-135m@4bits", "http://host:8000/v1", "x.gguf"])
def test_what_may_be_a_model_is_let_pass(name):
    check_model(name)


@pytest.mark.parametrize("name", ["mine", "./mine", "a/b/mine", "m@v2", "x.gguf"])
def test_what_lies_here_may_be_made_worse(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch() if name.endswith(".gguf") else place.mkdir()
    for steps in ("", "@4bits", "@20layers@noise0.1"):
        check_model(name + steps)
    with pytest.raises(FileNotFoundError, match="no model at 'other'"):
        check_model("other@4bits")


def test_a_name_on_the_hub_that_is_not_found_names_its_neighbour(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="not on the Hub \\(perhaps 'Qwen/Qwen3-0.6B' was meant\\); check the name"):
        load_tokenizer("Qwen/Qwen3-0.6")
    assert near_models("nobody/anything") == ""
