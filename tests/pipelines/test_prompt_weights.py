"""Weights of words: both syntaxes, against a plain reading over diffusers' text encoders."""

import math

import numpy as np
import pytest
import torch

from pyengine.errors import RequestError
from pyengine.pipelines.arguments import PROMPT_WEIGHTINGS
from pyengine.pipelines.prompt_weights import SYNTAXES, a1111, compel

CALL = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}


def test_the_table_of_arguments_knows_the_syntaxes():
    assert PROMPT_WEIGHTINGS == SYNTAXES


def pieces(mix, rounded=4):
    return [[(p.text, round(p.weight, rounded)) for p in section] for section in mix.prompts[0]]


A1111 = [
    ("plain text", [[("plain text", 1.0)]]),
    ("a (red) heart", [[("a ", 1.0), ("red", 1.1), (" heart", 1.0)]]),
    ("((red))", [[("red", 1.21)]]),
    ("[red] [[x]]", [[("red", 0.9091), (" ", 1.0), ("x", 0.8264)]]),
    ("(red:1.4) (x : 2 )", [[("red", 1.4), (" ", 1.0), ("x ", 2.0)]]),
    ("(a (b:2):1.5)", [[("a ", 1.5), ("b", 3.0)]]),
    (r"\(a\) \[b\] \\", [[(r"(a) [b] " + "\\", 1.0)]]),
    ("(open", [[("open", 1.1)]]),
    ("time 12:30, (x:1.2", [[("time 12:30, ", 1.0), ("x:1.2", 1.1)]]),
    ("closed) ]", [[("closed) ]", 1.0)]]),
    ("a BREAK b", [[("a", 1.0)], [("b", 1.0)]]),
    ("(a BREAK b:2)", [[("a", 2.0)], [("b", 2.0)]]),
    ("aBREAK breaks", [[("aBREAK breaks", 1.0)]]),
    ("(low:-0.5)", [[("low", -0.5)]]),
    ("()[](:1.5)(((:9))) x", [[(" x", 1.0)]]),
    ("(a:nan) (a:1e9)", [[("a:nan", 1.1), (" ", 1.0), ("a:1e9", 1.1)]]),
    ("(a [b) c]", [[("a ", 1.1), ("b", 1.0), (" c", 0.9091)]]),
    ("BREAK", [[("", 1.0)], [("", 1.0)]]),
    ("", [[]]),
]


@pytest.mark.parametrize(("text", "want"), A1111)
def test_a1111s_syntax(text, want):
    assert pieces(a1111.parse(text)) == want


COMPEL = [
    ("plain, long-haired text", [[("plain, long-haired text", 1.0)]]),
    ("a red++ heart", [[("a ", 1.0), ("red", 1.21), (" heart", 1.0)]]),
    ("a red-, heart", [[("a ", 1.0), ("red", 0.9), (", heart", 1.0)]]),
    ("(a red)1.3 heart", [[("a red", 1.3), (" heart", 1.0)]]),
    ('"a red"+ heart', [[("a red", 1.1), (" heart", 1.0)]]),
    ("(a red).attend(0.5)", [[("a red", 0.5)]]),
    ("(a (red)1.5 x)2", [[("a ", 2.0), ("red", 3.0), (" x", 2.0)]]),
    ("(kept) text", [[("kept text", 1.0)]]),
    (r"a\+ \(b\)", [[("a+ (b)", 1.0)]]),
    ('()++ ""1.5', [[(" ", 1.0)]]),
    ("a" + "-" * 9000, [[("a", 0.0)]]),
    ("", [[]]),
]


@pytest.mark.parametrize(("text", "want"), COMPEL)
def test_compels_syntax(text, want):
    assert pieces(compel.parse(text)) == want


def test_compels_mixes():
    mix = compel.parse('("a red++", (b, c)).blend(0.7, 0.3)')
    assert (mix.weights, mix.normalised, mix.joined) == ((0.7, 0.3), True, False)
    assert [[(p.text, round(p.weight, 3)) for p in own[0]] for own in mix.prompts] == [
        [("a ", 1.0), ("red", 1.21)],
        [("b, c", 1.0)],
    ]
    assert not compel.parse("(a, b).blend(1, 1, no_normalize)").normalised
    assert compel.parse('("a", "b").and()').joined


WRONG = [
    ("a1111", "(a:1000)", "weight from -100 to 100"),
    ("a1111", "(a:1.2.3)", "weight from -100 to 100"),
    ("compel", "(a", "closes the"),
    ("compel", '"a', "closes the"),
    ("compel", "cat.swap(dog)", "swap"),
    ("compel", "(a, b).blend(1)", "2 weights"),
    ("compel", "(a, b).blend(1, -1)", "sum is not 0"),
    ("compel", "(a, b).and(1, 2)", "expected no weights"),
    ("compel", "(a)1000", "up to 100"),
    ("compel", "(" * 60 + "a" + ")" * 60, "50 deep"),
    ("compel", "(a, b, c).blend(0.1, 0.2, -0.3)", "sum is not 0"),
    ("compel", "a" + "+" * 9000, "up to 100"),  # 1.1 to that power is no float
    ("compel", "(a)" + "+" * 9000, "up to 100"),
    ("compel", "((a)50)50", "weight from -100 to 100, given 'a' with 2500"),
    ("a1111", "((a:50):-50)", "weight from -100 to 100, given 'a' with -2500"),
    ("a1111", "(" * 50 + "a", "weight from -100 to 100, given 'a' with 117"),
    ("a1111", "(a" * 60, "50 deep"),
    ("a1111", "(a BREAK [" * 10_000, "50 deep"),  # in time that grows with the text alone
    ("a1111", "red " * 3000, "at most 2400 tokens"),
]


@pytest.fixture(scope="module")
def sd1(pair):
    return pair("sd1")


@pytest.mark.parametrize(("syntax", "text", "message"), WRONG)
def test_wrong_texts_are_refused(sd1, syntax, text, message):
    with pytest.raises(RequestError, match=message):
        sd1.own(text, prompt_weighting=syntax, **CALL)


def test_other_syntaxes_are_refused(sd1):
    with pytest.raises(RequestError, match="prompt_weighting"):
        sd1.own("a", prompt_weighting="other", **CALL)


# --- the embeddings -------------------------------------------------------------------------------


class Plain:
    """The published behaviour over transformers' encoder and tokenizer."""

    def __init__(self, pipe, end="", layer=None):
        self.tokenizer = getattr(pipe, f"tokenizer{end}")
        self.encoder = getattr(pipe, f"text_encoder{end}")
        self.layer = layer

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def row(self, ids):
        t = self.tokenizer
        ids = [t.bos_token_id, *ids, t.eos_token_id]
        return ids + [t.pad_token_id] * (77 - len(ids))

    @torch.no_grad()
    def read(self, ids, mask=None):
        mask = None if mask is None else torch.tensor([mask])
        out = self.encoder(torch.tensor([ids]), mask, output_hidden_states=True)
        z = out.last_hidden_state if self.layer is None else out.hidden_states[self.layer]
        return z[0], getattr(out, "text_embeds", [None])[0]

    def a1111(self, weighed, restore=True):
        """weighed: [(text, weight)] of one chunk."""
        ids = [self.ids(text) for text, _ in weighed]
        weights = [w for (_, w), own in zip(weighed, ids, strict=True) for _ in own]
        z, pooled = self.read(self.row([i for own in ids for i in own]))
        factors = torch.ones(77)
        factors[1 : 1 + len(weights)] = torch.tensor(weights)
        new = z * factors[:, None]
        return new * (z.mean() / new.mean()) if restore else new, pooled

    def compel(self, weighed):
        ids = [self.ids(text) for text, _ in weighed]
        row = self.row([i for own in ids for i in own])
        empty = self.read(self.row([]))[0]
        factors, ranges, at = torch.ones(77), [], 1
        for (_, w), own in zip(weighed, ids, strict=True):
            factors[at : at + len(own)] = w
            ranges.append((at, at + len(own)))
            at += len(own)

        def weigh(mask=None):
            return empty + (self.read(row, mask)[0] - empty) * factors[:, None]

        total, parts = weigh(), 1.0
        for (_, w), (begin, end) in zip(weighed, ranges, strict=True):
            if w < 1:
                mask = [0 if begin <= i < end else 1 for i in range(77)]
                part = math.tan((1 - w) * math.pi / 2)
                total, parts = total + part * weigh(mask), parts + part
        return total / parts


def close(got, want):
    error = float((got - want).norm() / want.norm())
    assert error < 1e-4, error


def test_a1111_is_the_published_one(sd1):
    plain = Plain(sd1.text_to_image)
    text, _ = sd1.own.encode_prompt(
        "a (red:1.5) heart [green]", do_classifier_free_guidance=False, prompt_weighting="a1111"
    )
    weighed = [("a", 1.0), ("red", 1.5), ("heart", 1.0), ("green", 1 / 1.1)]
    want, _ = plain.a1111(weighed)
    close(text[0], want)
    assert float((text[0] - plain.a1111(weighed, restore=False)[0]).norm()) > 0.01


def test_compel_is_the_published_one(sd1):
    plain = Plain(sd1.text_to_image)
    text, _ = sd1.own.encode_prompt(
        "a red++ heart green-- (blue)0.2",
        do_classifier_free_guidance=False,
        prompt_weighting="compel",
    )
    want = plain.compel([("a", 1.0), ("red", 1.21), ("heart", 1.0), ("green", 0.81),
                         ("blue", 0.2)])  # fmt: skip
    close(text[0], want)
    mixed, _ = sd1.own.encode_prompt(
        '("a red heart", "green+").blend(3, 1)',
        do_classifier_free_guidance=False,
        prompt_weighting="compel",
    )
    parts = plain.compel([("a red heart", 1.0)]), plain.compel([("green", 1.1)])
    close(mixed[0], 0.75 * parts[0] + 0.25 * parts[1])


LONG = "red, " + "heart " * 80 + "green"


def test_long_prompts_and_breaks_take_chunks(sd1):
    plain = Plain(sd1.text_to_image)

    def encoded(text, **more):
        return sd1.own.encode_prompt(text, prompt_weighting="a1111", **more)

    both, negative = encoded("a red BREAK (green)", negative_prompt="blue")
    want = [plain.read(plain.row(plain.ids("a red")))[0], plain.a1111([("green", 1.1)])[0]]
    close(both[0], torch.cat(want))
    want = [plain.read(plain.row(plain.ids(text)))[0] for text in ("blue", "")]
    close(negative[0], torch.cat(want))
    # Each "heart " is one token, the comma is too far back to end the chunk there.
    text, _ = encoded(LONG)
    ids = plain.ids(LONG)
    close(text[0], torch.cat([plain.read(plain.row(own))[0] for own in (ids[:75], ids[75:])]))
    near = "heart " * 60 + ", " + "red " * 20
    text, _ = encoded(near)
    ids = plain.ids(near)
    close(text[0], torch.cat([plain.read(plain.row(own))[0] for own in (ids[:61], ids[61:])]))


def test_sdxl_weighs_both_encoders(pair):
    one = pair("sdxl")
    text, negative, pooled, _ = one.own.encode_prompt(
        "a (red:1.5) BREAK heart", negative_prompt="green", prompt_weighting="a1111"
    )
    want = []
    for end in ("", "_2"):
        plain = Plain(one.text_to_image, end, -2)
        first, own = plain.a1111([("a", 1.0), ("red", 1.5)])
        want.append(torch.cat([first, plain.read(plain.row(plain.ids("heart")))[0]]))
    close(text[0], torch.cat(want, dim=-1))
    close(pooled[0], own)
    assert negative.shape == text.shape


# --- the pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_prompt_has_its_bits_alone(pair, name):
    pipe = pair(name).own
    prompts = ["a (red:1.3) heart", LONG, "a BREAK b BREAK c", "plain"]
    negatives = ["", "(green)", "x", LONG]
    call = {**CALL, "prompt_weighting": "a1111", "num_inference_steps": 1}
    together = pipe(prompts, negative_prompt=negatives, seed=[1, 2, 3, 4], **call).images
    for i in range(4):
        alone = pipe(prompts[i], negative_prompt=negatives[i], seed=i + 1, **call).images[0]
        assert np.array_equal(alone, together[i])
    assert not np.array_equal(together[0], pipe("a red heart", seed=1, **call).images[0])


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_without_weights_the_bits_are_those_of_none(sd1, syntax):
    call = {**CALL, "negative_prompt": "green", "seed": 3}
    plain = sd1.own("a red heart", **call).images
    assert np.array_equal(sd1.own("a red heart", prompt_weighting=syntax, **call).images, plain)


def test_pictures_are_diffusers_with_such_embeddings(sd1):
    text, negative = sd1.own.encode_prompt(
        "a (red:1.4) BREAK heart", negative_prompt="green", prompt_weighting="a1111"
    )
    own = sd1.own(
        "a (red:1.4) BREAK heart",
        negative_prompt="green",
        prompt_weighting="a1111",
        generator=torch.Generator().manual_seed(1),
        **CALL,
    ).images
    embeds = {"prompt_embeds": text, "negative_prompt_embeds": negative}
    theirs = sd1.text_to_image(**embeds, generator=torch.Generator().manual_seed(1), **CALL).images
    error = float(((own.astype(np.float64) - theirs) ** 2).mean())
    assert -10 * math.log10(error) > 40
    given = sd1.own(**embeds, generator=torch.Generator().manual_seed(1), **CALL).images
    assert np.array_equal(own, given)
    # Embeddings of several chunks get an empty negative prompt of as many.
    alone = sd1.own(prompt_embeds=text, seed=1, **CALL).images
    empty = sd1.own.encode_prompt("", prompt_weighting="a1111")[0]
    both = {"prompt_embeds": text, "negative_prompt_embeds": torch.cat([empty, empty], dim=1)}
    assert np.array_equal(alone, sd1.own(**both, seed=1, **CALL).images)


def test_settings_remember_the_syntax(sd1):
    from pyengine.pipelines.remembered import settings_of

    call = {"prompt": "(red)", "prompt_weighting": "a1111"}
    out = sd1.own(**call, seed=1, **{**CALL, "output_type": "pil"})
    settings = settings_of(sd1.own, call, out, model="x", hashes={})
    assert settings.prompt_weighting == "a1111"


def test_steps_of_prompts_of_other_lengths_share_a_batch_with_jobs_of_others(sd1):
    call = {**CALL, "prompt_weighting": "a1111"}
    first = sd1.own.prepare(sd1.own.request(["red", "a BREAK b"], seed=[1, 2], **call))
    second = sd1.own.prepare(sd1.own.request("x BREAK y", seed=3, **call))
    jobs = [*first, *second]
    while any(job.active for job in jobs):
        sd1.own.step(jobs)
    got = [sd1.own.finish(job) for job in jobs]
    for prompt, seed, picture in zip(
        ["red", "a BREAK b", "x BREAK y"], (1, 2, 3), got, strict=True
    ):
        assert np.array_equal(picture, sd1.own(prompt, seed=seed, **call).images[0])
