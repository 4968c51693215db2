"""Names that someone may have meant."""

import pytest

from pyengine.weights.text import did_you_mean, nearest, show

NAMES = ("num_inference_steps", "guidance_scale", "height", "width", "negative_prompt", "prompt")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("num_inference_step", "num_inference_steps"),
        ("steps", "num_inference_steps"),
        ("guidence_scale", "guidance_scale"),
        ("NEGATIVE-PROMPT", "negative_prompt"),
        ("hieght", "height"),
        ("prompts", "prompt"),
        ("colour", None),
        ("", None),
        ("e", None),
        ("x" * 1000, None),
        (7, None),
        (None, None),
    ],
)
def test_the_nearest_name(given, meant):
    assert nearest(given, NAMES) == meant


def test_a_part_of_several_names_is_none_of_them():
    assert nearest("prompt_embedding_x", ("a",)) is None
    assert nearest("prom", ("prompt_embeds_aaaaaaa", "prompt_embeds_bbbbbbb")) is None


def test_separators_and_case_count_for_nothing():
    assert nearest("DPM++ 2M", ("dpm++_2m", "ddim")) == "dpm++_2m"
    assert nearest("emoji_ar", ("emoji", "emoji-ar")) == "emoji-ar"


def test_the_question():
    assert did_you_mean("hight", NAMES) == "; did you mean height?"
    assert did_you_mean("colour", NAMES) == ""


def test_nothing_tells_where_it_lies_in_memory():
    assert show(object()) == "<object object>"
    assert show("x at 0x7f") == "'x at 0x7f'"
