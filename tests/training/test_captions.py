"""Prompts, and the tokenizer that must take any of them."""

import numpy as np
import pytest

from pyengine.errors import RequestError
from pyengine.training import captions, concepts, tokenizer


def test_articles_and_styles():
    assert captions.with_article("red heart") == "a red heart"
    assert captions.with_article("orange heart") == "an orange heart"
    assert captions.with_style("a fox", "noto") == "a fox, noto style"
    assert captions.with_style("a fox", None) == "a fox"


def test_prompts_vary_and_keep_the_label(pictures):
    numbers = np.random.default_rng(0)
    prompts = {captions.random_prompt(pictures, 0, numbers) for _ in range(200)}
    assert {"red thing", "a red thing", "a red thing, flat style"} <= prompts
    assert all("red thing" in prompt for prompt in prompts)
    again = np.random.default_rng(0)
    assert captions.random_prompt(pictures, 0, again) in prompts


def test_concepts_are_things_each_once():
    assert len(set(concepts.CONCEPTS)) == len(concepts.CONCEPTS) >= 300
    assert "red heart" in concepts.CONCEPTS
    assert all(name == name.strip() and name for name in concepts.CONCEPTS)


def test_merges_are_the_frequent_pairs():
    merges = tokenizer.learn_merges({"heart": 5, "hearts": 2, "ear": 1}, 3)
    assert merges[0] == ("e", "a")
    assert merges[1] == ("ea", "r")
    assert tokenizer.learn_merges({"ab": 1}, 10) == [("a", "b</w>")]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("tokens")
    counts = captions.word_counts(pictures, set(pictures.labels))
    size = tokenizer.write(folder, counts, 600, 16)
    loaded = tokenizer.load(folder)
    assert len(loaded) == size
    return loaded


def test_words_of_captions_are_single_tokens(tokens):
    assert tokens.tokenize("A red thing") == ["a</w>", "red</w>", "thing</w>"]


@pytest.mark.parametrize("prompt", ["", "a red thing", "Ünïcode ☃ 漢字 🙂", "x" * 500, "\x00\n\t"])
def test_any_prompt_encodes(tokens, prompt):
    numbers = tokenizer.encode(tokens, [prompt])
    assert numbers.shape == (1, 16)
    assert numbers[0, 0] == tokens.bos_token_id == len(tokens) - 2
    assert numbers[0, -1] == tokens.eos_token_id == len(tokens) - 1
    assert numbers.max() < len(tokens)


def test_bytes_survive(tokens):
    assert tokens.decode(tokens("héart ☃").input_ids, skip_special_tokens=True) == "héart ☃"


def test_vocabulary_must_hold_the_bytes(tmp_path):
    with pytest.raises(RequestError, match="vocabulary: expected at least 514"):
        tokenizer.write(tmp_path, {}, 100, 16)
