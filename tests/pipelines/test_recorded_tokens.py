"""Pipelines whose tokens are drawn by a recording draw what they draw without."""

import gc
import json
import weakref

import pytest
import tiny
import torch
from recorded_checks import Looks, own
from test_cuda_calls import Recorder
from test_jacobi import PROMPTS, SETTINGS, WRITERS, draw

import pyengine
from pyengine import ops
from pyengine.decoding.checks import check_drawn
from pyengine.decoding.recorded import TokenGraphs
from pyengine.errors import CheckpointError, OutOfMemoryError, RequestError
from pyengine.pipelines import StopSampling
from pyengine.schedules.masked import MaskedPlan


@pytest.fixture(scope="module", params=WRITERS)
def pipe(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    return pyengine.from_pretrained(WRITERS[request.param](folder), device="cpu")


@pytest.fixture
def recorded(pipe, monkeypatch):
    """use(): the pipeline's recorder; from then on it draws with one."""

    def use(**how):
        recorder = Recorder()
        monkeypatch.setattr(pipe, "graphs", TokenGraphs(recorder, **how))
        return recorder

    return use


def same(got, want):
    assert torch.equal(got.tokens, want.tokens)
    assert torch.equal(got.images, want.images)
    mine, plain = vars(got.report), vars(want.report)
    for name in ("steps", "evaluations", "passes", "tokens", "interrupted", "kernels", "decoding"):
        assert mine[name] == plain[name], name


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_tokens(pipe, recorded, name):
    """Of one picture and of four by two recordings; of three by that of four, with idle rows."""
    sizes = (1, 4, 3, 1)
    wants = [draw(pipe, rows, **SETTINGS[name]) for rows in sizes]
    recorder = recorded()
    for rows, want in zip(sizes, wants, strict=True):
        same(draw(pipe, rows, **SETTINGS[name]), want)
    assert recorder.recorded == 2
    assert recorder.replayed == sum(want.report.evaluations - 1 for want in wants)


def test_other_seeds_settings_and_prefixes_need_no_other_recording(pipe, recorded):
    calls = (
        {"seed": 1},
        {"seed": 2, "temperature": 0.5},
        {"top_k": 3},
        {"temperature": 0},
        {"prefix": [1, 2, 3]},
        {"seed": None, "generator": torch.Generator().manual_seed(7)},
    )
    wants = [draw(pipe, **call) for call in calls]
    calls[-1]["generator"].manual_seed(7)
    recorder = recorded()
    for call, want in zip(calls, wants, strict=True):
        same(draw(pipe, **call), want)
    assert recorder.recorded == 1


@pytest.mark.parametrize("decoding", ["jacobi", "jacobi-gumbel"])
@pytest.mark.parametrize("window", [1, 3, 1000])
def test_windows(pipe, recorded, decoding, window):
    """Pictures are complete at different passes, and go on in a recording that reads them all."""
    given = {"decoding": decoding, "window": window, "temperature": 0.5}
    calls = [given, given | {"guidance_scale": 2.0}, given | {"prefix": [1, 2, 3]}]
    wants = [draw(pipe, **call) for call in calls]
    recorder = recorded()
    for call, want in zip(calls, wants, strict=True):
        same(draw(pipe, **call), want)
    shapes = {want.report.guidance_scale > 1 for want in wants}
    assert recorder.recorded == len(shapes)


def test_another_prompt_of_another_length(pipe, recorded):
    if not pipe.takes_prompt:
        pytest.skip("the model takes no prompt")
    wants = [pipe(prompt, seed=1, output_type="latent") for prompt in PROMPTS]
    recorder = recorded()
    for prompt, want in zip(PROMPTS, wants, strict=True):
        same(pipe(prompt, seed=1, output_type="latent"), want)
    assert recorder.recorded == 1


def test_what_the_callback_changes_is_read(pipe, recorded):
    def change(pipe, step, timestep, tensors):
        seen.append(tensors["tokens"].clone())
        tensors["tokens"][:, timestep] = (tensors["tokens"][:, timestep] + step) % 5
        return tensors

    seen = []
    want, plain = draw(pipe, callback_on_step_end=change), seen
    recorded()
    seen = []
    same(draw(pipe, callback_on_step_end=change), want)
    assert all(torch.equal(a, b) for a, b in zip(seen, plain, strict=True))

    def wrong(pipe, step, timestep, tensors):
        return {"tokens": tensors["tokens"] + (10**6 if step == 2 else 0)}

    with pytest.raises(RequestError, match="callback_on_step_end: tokens: expected"):
        draw(pipe, callback_on_step_end=wrong)


def test_stopping(pipe, recorded):
    def stop(pipe, step, timestep, tensors):
        if step == 3:
            raise StopSampling

    want = draw(pipe, callback_on_step_end=stop)
    recorded()
    got = draw(pipe, callback_on_step_end=stop)
    same(got, want)
    assert got.report.interrupted
    assert (got.tokens.flatten(1)[:, 4:] == -1).all()


def test_pictures_that_end(tmp_path, monkeypatch):
    """Each at a place of its own; and with a callback, which sees that they have ended."""
    folder = tiny.write_image_gpt(tmp_path / "imagegpt")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 3, "pad_token_id": 5}))
    pipe = pyengine.from_pretrained(folder, device="cpu")
    calls = [{"seed": seed} for seed in (1, 2, 3)]
    calls += [{"seed": 1, "callback_on_step_end": lambda *_: {}}, {"seed": 1, "prefix": [1, 3, 2]}]
    calls = [{"num_images_per_prompt": 4, "output_type": "latent", **call} for call in calls]
    wants = [pipe(**call) for call in calls]
    generators = [torch.Generator().manual_seed(4) for _ in range(4)]
    twice = {"num_images_per_prompt": 4, "output_type": "latent", "generator": generators}
    again = [pipe(**twice).tokens for _ in range(3)]
    ends = {row.index(3) for want in wants for row in want.tokens.flatten(1).tolist() if 3 in row}
    assert len(ends) > 3
    monkeypatch.setattr("pyengine.decoding.recorded.LOOK", 5)
    pipe.graphs = TokenGraphs(Recorder())
    for call, want in zip(calls, wants, strict=True):
        got = pipe(**call)
        assert torch.equal(got.tokens, want.tokens)
        assert got.report.tokens == want.report.tokens
        assert got.report.passes == want.report.passes
        assert got.report.interrupted == want.report.interrupted
        assert want.report.evaluations <= got.report.evaluations < want.report.evaluations + 5
    # A caller's generators go on where they would have.
    for generator in generators:
        generator.manual_seed(4)
    for want in again:
        assert torch.equal(pipe(**twice).tokens, want)


def test_tokens_that_cannot_be_drawn(pipe, recorded, monkeypatch):
    """Told of when the host looks; the first token is drawn, and checked, by itself."""
    read = TokenGraphs._run_draw

    def broken(self, changing, kept):
        with monkeypatch.context() as patch:
            patch.setattr(ops, "rms_norm", lambda x, *_, **__: x * torch.nan)
            return read(self, changing, kept)

    monkeypatch.setattr(TokenGraphs, "_run_draw", broken)
    recorded()
    with pytest.raises(CheckpointError, match=r"logits: expected finite .* picture 0 at token 1$"):
        draw(pipe)


def test_after_running_out_of_memory_it_draws_on(pipe, recorded, monkeypatch):
    want = draw(pipe)
    recorder = recorded()
    same(draw(pipe), want)

    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(type(pipe), "_decode", too_much)
        with pytest.raises(OutOfMemoryError, match="out of memory; "):
            draw(pipe, output_type="np")
    assert len(pipe.graphs) == 0
    same(draw(pipe), want)
    assert recorder.recorded == 2


@pytest.mark.parametrize("how", [{}, {"decoding": "jacobi", "window": 2}])
def test_a_callback_that_draws_another_picture(pipe, recorded, how):
    """What the outer run has read stays its own."""
    inner = draw(pipe, seed=9, **how)

    def nested(pipe, step, timestep, tensors):
        if step in (1, 3):
            seen.append(draw(pipe, seed=9, **how))
        return {}

    seen = []
    want = draw(pipe, callback_on_step_end=nested, **how)
    recorded()
    seen = []
    same(draw(pipe, callback_on_step_end=nested, **how), want)
    assert len(seen) == 2
    for got in seen:
        same(got, inner)


def test_memory_that_runs_out_within_a_callback(pipe, recorded, monkeypatch):
    def nested(pipe, step, timestep, tensors):
        if step == 2:
            with monkeypatch.context() as patch:
                patch.setattr(type(pipe), "_decode", too_much)
                with pytest.raises(OutOfMemoryError):
                    draw(pipe, output_type="np")
        return {}

    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    want = draw(pipe)
    recorded()
    same(draw(pipe, callback_on_step_end=nested), want)


def test_within_inference_mode_and_without(pipe, recorded):
    want = draw(pipe)
    recorded()
    with torch.inference_mode():
        same(draw(pipe), want)
    same(draw(pipe), want)


@pytest.mark.parametrize("how", [{}, {"decoding": "jacobi", "window": 2}])
def test_a_recording_reads_nothing_that_may_go(pipe, monkeypatch, how):
    recorder = Recorder()
    # The cache of keys and values lives as long as what is recorded with it.
    record = own(recorder, pipe.model, lambda: pipe.graphs.tensors())
    monkeypatch.setattr(pipe, "graphs", TokenGraphs(record))
    draw(pipe, guidance_scale=2.0, **how)
    assert recorder.recorded


def test_a_recording_looks_at_no_value(pipe, recorded, monkeypatch):
    want = draw(pipe)
    recorder = recorded()

    def strict(function, changing, kept):
        def run(*given):
            with Looks():
                return function(*given)

        return Recorder.__call__(recorder, run, changing, kept)

    monkeypatch.setattr(pipe, "graphs", TokenGraphs(strict))
    same(draw(pipe), want)
    assert recorder.replayed > 3


# --- all tokens at once ---------------------------------------------------------------------------


@pytest.fixture
def amused(tmp_path):
    return pyengine.from_pretrained(tiny.write_amused(tmp_path / "amused"), device="cpu")


MASKED = (
    {"prompt": PROMPTS, "seed": 1},
    {"prompt": PROMPTS, "seed": 2, "top_k": 5, "temperature": 0.5},
    {"prompt": PROMPTS[0], "seed": 3, "guidance_scale": 1.0},
    {"prompt": PROMPTS, "seed": 4, "callback_on_step_end": lambda *_: {}},
)


def test_masked_pictures(amused):
    wants = [amused(output_type="latent", num_inference_steps=4, **call) for call in MASKED]
    recorder = Recorder()
    amused.use_graphs(recorder)
    for call, want in zip(MASKED, wants, strict=True):
        same(amused(output_type="latent", num_inference_steps=4, **call), want)
    assert (recorder.recorded, recorder.replayed) == (2, 16)


def test_a_masked_recording_reads_nothing_that_may_go(amused):
    recorder = Recorder()
    amused.use_graphs(own(recorder, amused.model))
    amused(PROMPTS, num_inference_steps=2, seed=1, output_type="latent")
    assert recorder.recorded == 1


def test_a_pipeline_with_graphs_goes_when_it_is_let_go(amused, pipe, recorded):
    """Its weights are memory that the next model needs."""
    amused.use_graphs(Recorder())
    amused(PROMPTS, num_inference_steps=2, seed=1, output_type="latent")
    recorded()
    draw(pipe)
    gc.collect()
    owners = [weakref.ref(TokenGraphs(Recorder())), weakref.ref(amused.graphs)]
    assert owners[0]() is None
    amused.graphs = None
    assert owners[1]() is None


def test_masked_pictures_that_cannot_be_drawn(amused, monkeypatch):
    amused.use_graphs(Recorder())
    amused(PROMPTS[0], num_inference_steps=3, seed=1)
    logits = type(amused.model).logits
    monkeypatch.setattr(
        type(amused.model), "logits", lambda *given: logits(*given).fill_(torch.nan)
    )
    with pytest.raises(CheckpointError, match=r"found others in picture 0 at token 0$"):
        amused(PROMPTS[0], num_inference_steps=3, seed=1)
    with pytest.raises(CheckpointError, match=r"found NaN in picture 0 at step 0 "):
        amused(PROMPTS[0], num_inference_steps=3, seed=1, callback_on_step_end=lambda *_: {})


def test_a_masked_step_looks_at_no_value(amused, monkeypatch):
    """Only, in the end, at all tokens; the schedule's own numbers are on the host."""
    given = {"num_inference_steps": 4, "seed": 1, "output_type": "latent", "top_p": 0.9}
    want = amused(PROMPTS, **given)
    amused.use_graphs(Recorder())
    masked, mode = MaskedPlan.masked, Looks()

    def on_the_host(*given):
        mode.over = True
        result = masked(*given)
        mode.over = False
        return result

    def at_the_end(*given):
        mode.over = True
        return check_drawn(*given)

    def strict(pipe, jobs):
        with mode:
            return step(pipe, jobs)

    step = type(amused)._step
    monkeypatch.setattr(MaskedPlan, "masked", on_the_host)
    monkeypatch.setattr("pyengine.decoding.masked.check_drawn", at_the_end)
    monkeypatch.setattr(type(amused), "_step", strict)
    assert torch.equal(amused(PROMPTS, **given).tokens, want.tokens)
    assert mode.over
