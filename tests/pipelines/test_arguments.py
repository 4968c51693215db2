"""The table of call arguments against the calls' signatures, and what is made from it."""

import ast
import inspect
import json
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from pyengine import metadata
from pyengine.cli import naming, values
from pyengine.decoding.request import SAMPLING
from pyengine.errors import RequestError
from pyengine.guidance import METHODS
from pyengine.jobs import checks
from pyengine.pipelines import CascadePipeline, arguments, families
from pyengine.pipelines.argument_kinds import Argument, Choice, Real, Value, Whole
from pyengine.pipelines.arguments import ARGUMENTS, BY_NAME
from pyengine.pipelines.keywords import ELSEWHERE, OTHERS, refuse_others

ROOT = Path(__file__).resolve().parents[2]
CALLS = {
    name: inspect.signature(family.pipeline_class.__call__).parameters
    for name, family in ((family.name, family) for family in families())
}
CALLS["cascade"] = inspect.signature(CascadePipeline.__call__).parameters


# --- signatures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_of_a_call_is_in_the_table(name):
    own = set(CALLS[name]) - {"self", "others"} - set(ELSEWHERE)
    assert own <= set(BY_NAME)
    assert {row.name for row in ARGUMENTS if row.everywhere} <= own


@pytest.mark.parametrize("name", CALLS)
def test_defaults_of_a_call_are_what_the_table_allows(name):
    for parameter in CALLS[name].values():
        row = BY_NAME.get(parameter.name)
        if row is None or parameter.default in (None, inspect.Parameter.empty):
            continue
        if row.simple:
            assert arguments.check(row.name, parameter.default) == parameter.default
        assert row.everywhere or not isinstance(row.kind, Whole | Real) or row.nothing is not None


def test_every_row_of_the_table_is_an_argument_of_some_call():
    assert len(BY_NAME) == len(ARGUMENTS)
    for row in ARGUMENTS:
        takers = [name for name, own in CALLS.items() if row.name in own]
        assert takers, row.name
        assert len(takers) == len(CALLS) or not row.everywhere
        if row.tokens:
            diffusion = ("stable_diffusion", "stable_diffusion_xl", "latent_consistency")
            assert not set(takers) & set(diffusion)
    assert set(SAMPLING) <= set(BY_NAME)


def test_methods_of_guidance():
    assert arguments.GUIDANCE_METHODS == METHODS


def test_bounds_are_those_of_the_checks():
    """Numbers that requests check by themselves too, since pictures may have one each."""
    assert BY_NAME["guidance_scale"].kind == Real(0, checks.MAX_GUIDANCE)
    assert BY_NAME["num_images_per_prompt"].kind == Whole(1, checks.MAX_PICTURES)
    assert BY_NAME["seed"].kind == Whole(0, checks.MAX_SEED)
    assert BY_NAME["height"].kind == BY_NAME["width"].kind == Whole(1, checks.MAX_SIDE)


# --- one line for a simple argument ---------------------------------------------------------------


#: Where the table's argument min_p may be named: the table, signatures with their docstrings, the
#: record of sampling, the ops.
NAMED = ("pyengine/ops/", "pyengine/pipelines/arguments.py", "pyengine/decoding/request.py")


def test_a_simple_argument_stands_in_few_places():
    for path in sorted((ROOT / "pyengine").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name.startswith(NAMED):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == "__call__"
        ]
        inside = {id(child) for call in calls for child in ast.walk(call)}
        words = [
            node
            for node in ast.walk(tree)
            if id(node) not in inside
            and "min_p"
            in (
                getattr(node, "id", ""),
                getattr(node, "attr", ""),
                getattr(node, "arg", ""),
                getattr(node, "value", ""),
            )
        ]
        assert not words, f"{name}: line {words[0].lineno}"


NEW = Argument("sharpness", Real(0, 2), nothing=0, option="sharp", help="How sharp.", shown="1")


def test_a_row_makes_an_option():
    def draw(prompt: str | None = None, json: bool = False, **call: object) -> int:
        print(prompt, json, call["sharp"], call["top_k"])
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "OPTIONS", (BY_NAME["top_k"], NEW))
        values.with_call_options(after="prompt")(draw)
    app = typer.Typer(rich_markup_mode=None)
    app.command()(draw)
    done = CliRunner().invoke(app, ["--sharp", "1.5", "--prompt", "x"])
    assert done.output == "x False 1.5 None\n"
    assert "expected a number, given 'many'" in CliRunner().invoke(app, ["--sharp", "many"]).output
    names = [option.name for option in get_command(app).params]
    assert names[:4] == ["prompt", "top_k", "sharp", "json"]
    text = CliRunner().invoke(app, ["--help"]).output
    assert "How sharp." in text
    assert "[default: (1)]" in text


def test_checked():
    class Defaults:
        top_k, decoding = 7, "jacobi"

    given = {"top_k": None, "decoding": None, "top_p": 0.5, "prompt": "x", "strength": 9, "eta": 1}
    assert arguments.checked(given, Defaults()) == {**given, "top_k": 7, "decoding": "jacobi"}
    for name, value, text in (
        ("top_k", -1, "top_k: expected a whole number from 0 to 1048576, given -1"),
        ("eta", None, "eta: expected a number from 0 to 1, given None"),
        ("output_type", "gif", "output_type: expected one of pil, np, pt, latent, given 'gif'"),
    ):
        with pytest.raises(RequestError, match=text):
            arguments.checked({name: value}, Defaults())


def test_what_asks_for_nothing():
    for name, nothing in OTHERS.items():
        refuse_others({name: nothing}, lambda: None)
    assert (OTHERS["guidance_scale"], OTHERS["top_p"], OTHERS["eta"], OTHERS["prompt"]) == (
        1,
        1,
        0,
        None,
    )
    assert not set(OTHERS) & {"seed", "run", "output_type"}


def test_options_by_argument():
    assert naming.OPTIONS["num_inference_steps"] == "steps"
    assert naming.OPTIONS["mask_image"] == "mask"


def test_settings_hold_what_the_table_remembers():
    fields = {f.name: f for f in metadata.dataclasses.fields(metadata.Settings)}
    for row in arguments.REMEMBERED:
        assert row.setting in fields
        if row.asked:
            assert fields[row.setting].default is None
        elif isinstance(row.kind, Whole | Real) and not row.own:
            bounds = fields[row.setting].metadata
            assert (bounds["min"], bounds["max"]) == (row.kind.low, row.kind.high)


#: What pyengine 0.1.0 wrote before settings were made from the table.
OLD = (
    '{"format": 1, "prompt": "a red heart", "seed": 7, "negative_prompt": null, "steps": 64,'
    ' "sampler": "autoregressive", "scheduler": null, "guidance_scale": 2.0, "guidance_rescale":'
    ' 0.0, "eta": 0.0, "clip_skip": null, "height": 64, "width": 64, "strength": null,'
    ' "init_image": null, "mask": null, "temperature": 0.5, "top_k": 20, "top_p": null, "min_p":'
    ' 0.125, "decoding": null, "prefix": null, "first_seed": 7, "count": 1, "index": 0, "model":'
    ' "emoji-ar", "model_hash": "33", "dtype": "float32", "weights": null, "device": "cpu",'
    ' "version": "0.1.0"}'
)


def test_settings_of_before_are_read():
    settings = metadata.Settings.from_dict(json.loads(OLD))
    assert (settings.min_p, settings.top_k, settings.top_p, settings.steps) == (0.125, 20, None, 64)
    later = dict.fromkeys(
        (
            "class_labels",
            "classifier",
            "classifier_scale",
            "clip_model",
            "clip_guidance_scale",
            "clip_prompt",
            "guidance_method",
            "negative_scale",
            "clip_image",
            "guidance_start",
            "guidance_end",
            "upscaler",
            "truncation",
            "noise_level",
            "original_image",
            "stages",
            "prior_steps",
            "decoder_steps",
            "super_res_steps",
            "prior_guidance_scale",
            "decoder_guidance_scale",
            "lora",
            "loras",
            *("control", "control_kind", "controlnet", "t2i_adapter"),
            *("control_scale", "control_start", "control_end", "control_mode"),
            *("adapter_scale", "adapter_share"),
            *("ip_adapter_scale", "ip_adapter", "ip_adapter_image"),
            "embeddings",
            "prompt_weighting",
            "image_guidance_scale",
            "preset",
            *("cache_interval", "cache_branch_id", "effort"),
            *("prior", "vae"),
        )
    )
    assert json.loads(settings.to_json()) == {**json.loads(OLD), **later}


# --- for other programs ---------------------------------------------------------------------------


def test_a_schema_of_a_call():
    schema = arguments.json_schema(
        next(f for f in families() if f.name == "janus").pipeline_class.__call__
    )
    assert schema["properties"]["min_p"] == {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "Token models: this share of the likeliest.",
    }
    assert schema["properties"]["decoding"]["enum"] == list(arguments.DECODINGS)
    assert "eta" not in schema["properties"]
    assert not {"image", "run", "generator"} & set(schema["properties"])
    json.dumps(schema)
    assert all(not isinstance(BY_NAME[name].kind, Value) for name in schema["properties"])
    assert isinstance(BY_NAME["decoding"].kind, Choice)
