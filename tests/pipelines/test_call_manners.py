"""What all calls share with diffusers': answers by name and position, unknown arguments."""

import inspect
import re

import diffusers
import pytest

from pyengine.errors import RequestError, UnknownArgumentError

KINDS = ("sd1", "sdxl", "amused", "image_gpt", "janus")


@pytest.fixture
def called(opened, pair):
    def get(kind):
        if kind == "sdxl":
            _, call = opened("sd1")
            return pair("sdxl").own, call
        return opened(kind)

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_read_as_diffusers_are(called, kind):
    pipe, call = called(kind)
    result = pipe(**call)
    images = result.images
    assert result[0] is images
    assert result["images"] is images
    assert result[:1] == result.to_tuple() == (images,)
    assert [*result] == [*result.keys()] == ["images"]
    assert dict(result) == {"images": images}
    assert len(result) == 1
    assert "images" in result
    assert result["seeds"] == result.seeds
    assert result.nsfw_content_detected is None
    assert result == result
    assert result != pipe(**call)
    for missing in ("pictures", 1, "to_tuple"):
        with pytest.raises((KeyError, IndexError)):
            result[missing]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuple_in_place_of_an_answer(called, kind):
    pipe, call = called(kind)
    answer = pipe(return_dict=False, **call)
    assert type(answer) is tuple
    assert answer[1:] == ((None,) if kind == "sd1" else ())
    assert answer[0].shape == pipe(**call).images.shape
    with pytest.raises(RequestError, match="return_dict: expected True or False"):
        pipe(return_dict="no", **call)


@pytest.mark.parametrize("kind", KINDS)
def test_a_misspelt_argument_names_the_nearest(called, kind):
    """Every argument of every call, with a letter missing and with one too many."""
    pipe, call = called(kind)
    names = [*inspect.signature(pipe.__call__).parameters]
    names.remove("others")
    for name in names:
        for wrong in (name[:-2] + name[-1], name + "s"):
            if wrong in names or wrong in ("callback", "sigmas") or len(name) < 4:
                continue
            with pytest.raises(UnknownArgumentError) as caught:
                pipe(**{wrong: 1}, **call)
            assert isinstance(caught.value, TypeError)
            assert str(caught.value) == (
                f"{wrong}: __call__() got an unexpected keyword argument '{wrong}'; did you mean"
                f" {name}?"
            )
    with pytest.raises(TypeError, match=r"zzz: .*unexpected keyword argument 'zzz'$"):
        pipe(zzz=1, **call)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("callback", print, "give callback_on_step_end"),
        ("callback_steps", 1, "give callback_on_step_end"),
        ("cross_attention_kwargs", {"gligen": {}}, "(no LoRAs|expected .*given)"),
        ("ip_adapter_image", object(), "(has no IP-Adapter|no such argument)"),
        ("ip_adapter_image_embeds", [1], "(has no IP-Adapter|no such argument)"),
        ("controlnet_conditioning_scale", 0.5, "(has no ControlNet|no such argument)"),
    ],
)
def test_what_is_only_elsewhere_says_where(called, kind, name, value, words):
    pipe, call = called(kind)
    with pytest.raises(RequestError, match=rf"^{name}: .*{words}"):
        pipe(**{name: value}, **call)
    assert pipe(**{name: None}, **call).images is not None


@pytest.mark.parametrize("kind", KINDS)
def test_another_models_argument_is_refused_unless_it_asks_for_nothing(called, kind):
    pipe, call = called(kind)
    own = inspect.signature(pipe.__call__).parameters
    for name, nothing, something in (("top_k", 0, 5), ("prompt_2", None, "x"), ("eta", 0, 0.5),
                                     ("decoding", None, "jacobi")):  # fmt: skip
        if name in own:
            continue
        pipe(**{name: nothing}, **call)
        with pytest.raises(RequestError, match=f"^{re.escape(name)}: this model has no such"):
            pipe(**{name: something}, **call)


@pytest.mark.parametrize("kind", KINDS)
def test_no_names_of_tensors_are_the_usual_ones(called, kind):
    pipe, call = called(kind)
    seen = set()
    pipe(
        callback_on_step_end=lambda pipe, i, t, tensors: seen.update(tensors),
        callback_on_step_end_tensor_inputs=None,
        **call,
    )
    assert seen == ({"latents"} if kind.startswith("sd") else {"tokens"})


def test_amused_takes_its_first_arguments_by_position(called):
    pipe, _ = called("amused")
    theirs = [*inspect.signature(diffusers.AmusedPipeline.__call__).parameters.values()]
    ours = [*inspect.signature(type(pipe).__call__).parameters.values()]
    positional = [p.name for p in ours if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert positional == [p.name for p in theirs][: len(positional)]
    assert len(positional) > 5
