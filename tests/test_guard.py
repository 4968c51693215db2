"""Pictures and tokens are the same bits whatever the caller has set in torch and NumPy, and the
caller's settings are the same afterwards.
"""

import contextlib
import os
import threading

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import pyengine
from pyengine import guard
from pyengine.errors import RequestError
from pyengine.pipelines import StopSampling


@contextlib.contextmanager
def changed(get, put, value):
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def default_dtype(dtype):
    return lambda: changed(torch.get_default_dtype, torch.set_default_dtype, dtype)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def flushed():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def deterministic():
    return changed(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    )


def matmul(precision):
    return lambda: changed(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, precision
    )


def mkldnn():
    return changed(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, False)


class Logging(torch.overrides.TorchFunctionMode):
    """A caller's mode that changes what torch's functions give."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        y = func(*args, **(kwargs or {}))
        return y + 1 if func is torch.randn else y


STATES = {
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "default float64": default_dtype(torch.float64),
    "default float16": default_dtype(torch.float16),
    "default bfloat16": default_dtype(torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "function mode": Logging,
    "deterministic": deterministic,
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "flush denormals": flushed,
    "medium products": matmul("medium"),
    "high products": matmul("high"),
    "no mkldnn": mkldnn,
    "numpy raises": lambda: np.errstate(all="raise"),
}
WRITERS = {
    "sd1": tiny.write_sd1,
    "sdxl": tiny.write_sdxl,
    "amused": tiny.write_amused,
    "janus": tiny.write_janus,
    "image_gpt": tiny.write_image_gpt,
    "picture_gpt": tiny.write_picture_gpt,
}
DIFFUSION = ("sd1", "sdxl")


def seen():
    """All that this file's states change, as a caller sees it."""
    smallest = float(np.float64(5e-324))
    return (
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_default_dtype(),
        torch.empty(0).device.type,
        torch.is_inference_mode_enabled(),
        torch._C._len_torch_function_stack(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        smallest * 1.0 == 0,
        torch.get_float32_matmul_precision(),
        torch._C._get_mkldnn_enabled(),
        tuple(np.geterr().items()),
        torch.get_num_threads(),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = WRITERS[name](tmp_path_factory.mktemp("guard") / name)
        return made[name]

    return get


def calls(name):
    """The calls of one pipeline, each with what it is compared by."""
    if name == "image_gpt":
        return [{"num_images_per_prompt": 2}]
    call = {"prompt": "a red heart", "num_images_per_prompt": 2}
    if name in DIFFUSION:
        photo = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
        mask = Image.fromarray(np.eye(64, dtype=np.uint8) * 255)
        size = {"height": 64, "width": 64, "num_inference_steps": 3, **call}
        return [
            *({**size, "scheduler": s} for s in ("euler", "heun", "dpmpp_2m_karras", "lcm")),
            {**size, "scheduler": "ddim", "image": photo, "mask_image": mask, "strength": 0.9},
        ]
    return [{**call, "num_inference_steps": 3}] if name == "amused" else [call]


def results(pipe, name, most=None):
    out = []
    for call in calls(name)[:most]:
        result = pipe(**call, seed=5, output_type="pt", progress=False)
        out += [result.images] + ([] if result.tokens is None else [result.tokens])
    return out


@pytest.fixture(scope="module")
def expected(folders):
    """(a pipeline that was loaded with nothing set, its results)"""
    made = {}

    def get(name):
        if name not in made:
            pipe = pyengine.from_pretrained(folders(name), device="cpu")
            made[name] = pipe, results(pipe, name)
        return made[name]

    return get


def same(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        assert not a.is_inference()
        assert not a.requires_grad
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", WRITERS)
def test_calls_and_loading(folders, expected, name, state):
    pipe, wanted = expected(name)
    with STATES[state]():
        before = seen()
        found = results(pipe, name)
        fresh = pyengine.from_pretrained(folders(name), device="cpu")
        again = results(fresh, name, 1)
        assert seen() == before
    same(found, wanted)
    same(again, wanted[: len(again)])
    same(results(fresh, name, 1), again)  # what was loaded there works here


@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
@pytest.mark.parametrize("state", STATES)
def test_the_shipped_models(state):
    for name in ("emoji", "emoji-ar"):
        call = {"seed": 1, "output_type": "np", "progress": False}
        call |= {"num_inference_steps": 1} if name == "emoji" else {}
        wanted = pyengine.from_pretrained(name, device="cpu")("a red heart", **call)
        with STATES[state]():
            before = seen()
            found = pyengine.from_pretrained(name, device="cpu")("a red heart", **call)
            assert seen() == before
        assert np.array_equal(found.images, wanted.images)


@pytest.mark.parametrize("state", STATES)
def test_models_by_themselves(expected, state):
    """What a pipeline's parts are asked directly, and on many threads' worth of denormals."""
    pipe, _ = expected("sd1")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 4, 8, 8, generator=generator)
    text = torch.randn(1, 7, pipe.unet.config.cross_attention_dim, generator=generator)

    def run():
        times = pipe.unet.embed_timesteps(timesteps)[0]
        y = pipe.unet(x, times, pipe.unet.encode_context(text), return_dict=False)[0]
        return [y, pipe.vae.decode(x).sample, pipe.vae.encode(picture).latent_dist.mean]

    timesteps = torch.tensor([500.0])
    picture = torch.rand(1, 3, 64, 64, generator=generator)
    wanted = run()
    with STATES[state]():
        before = seen()
        found = run()
        assert seen() == before
    same(found, wanted)


@pytest.mark.parametrize("state", STATES)
def test_after_errors(folders, expected, state, tmp_path):
    pipe, _ = expected("sd1")
    with STATES[state]():
        before = seen()
        with pytest.raises(RequestError):
            pipe("x", num_inference_steps=0)
        assert seen() == before
        with pytest.raises(pyengine.errors.CheckpointError):
            pyengine.from_pretrained(tmp_path)
        assert seen() == before

        def breaks(*_):
            raise KeyError("the caller's")

        with pytest.raises(KeyError, match="the caller's"):
            pipe("x", num_inference_steps=2, callback_on_step_end=breaks, progress=False)
        assert seen() == before


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["sd1", "picture_gpt"])
def test_callbacks_see_the_callers_state(expected, name, state):
    pipe, wanted = expected(name)
    call = calls(name)[0] | {"seed": 5, "output_type": "pt", "progress": False}
    inside = []

    def look(pipe, step, timestep, tensors):
        inside.append(seen())
        if name == "sd1" and step == 0:  # a call within the call
            same(results(pipe, name, 1), wanted[:1])

    with STATES[state]():
        before = seen()
        found = pipe(**call, callback_on_step_end=look)
        assert seen() == before
    # Without gradients, as diffusers calls them; inference mode ends with the call's own tensors.
    ours = {4: False, 7: False}
    assert set(inside) == {tuple(ours.get(i, v) for i, v in enumerate(before))}
    assert torch.equal(found.images, wanted[0])


def test_what_a_callback_sets_stays_set_and_changes_no_picture(expected):
    pipe, wanted = expected("sd1")

    def sets(*_):
        torch.set_default_dtype(torch.float64)
        np.seterr(all="raise")

    before = np.geterr()
    try:
        found = pipe(**calls("sd1")[0], seed=5, output_type="pt", callback_on_step_end=sets)
        assert torch.get_default_dtype() == torch.float64
        assert np.geterr()["over"] == "raise"
    finally:
        torch.set_default_dtype(torch.float32)
        np.seterr(**before)
    assert torch.equal(found.images, wanted[0])


def test_a_callback_that_stops(expected):
    pipe, _ = expected("sd1")

    def stop(*_):
        raise StopSampling

    with torch.autocast("cpu", torch.bfloat16):
        before = seen()
        assert pipe("x", callback_on_step_end=stop, progress=False).report.interrupted
        assert seen() == before


def test_many_threads_at_once(expected):
    """The settings that torch has one of for all threads come back when the last call ends."""
    names = ("sd1", "picture_gpt", "amused")
    pipes = {name: expected(name) for name in names}
    wrong = []

    def work(name, state):
        pipe, wanted = pipes[name]
        with state():
            for _ in range(5):
                found = results(pipe, name, 1)
                if not all(map(torch.equal, found, wanted)):
                    wrong.append(name)

    # Where each thread has its own, as autocast, they may differ.
    local = [STATES["autocast bfloat16"], STATES["device context"], STATES["numpy raises"]]
    with STATES["default float64"]():
        threads = [threading.Thread(target=work, args=p) for p in zip(names, local, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_default_dtype() == torch.float64
    assert not wrong


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9")
def test_an_inherited_precision_stays_inherited(expected):
    pipe, wanted = expected("sd1")
    matmul, backends = torch.backends.mkldnn.matmul, torch.backends
    before = backends.fp32_precision, matmul.fp32_precision
    try:
        matmul.fp32_precision = "none"
        backends.fp32_precision = "tf32"
        same(results(pipe, "sd1"), wanted)
        assert matmul.fp32_precision == "tf32"
        backends.fp32_precision = "ieee"
        assert matmul.fp32_precision == "ieee"
        backends.fp32_precision = "none"
        matmul.fp32_precision = "bf16"
        same(results(pipe, "sd1"), wanted)
        assert (backends.fp32_precision, matmul.fp32_precision) == ("none", "bf16")
    finally:
        backends.fp32_precision, matmul.fp32_precision = before


def test_a_products_precision_within():
    """The states above would prove little on a CPU whose products they leave alone."""

    @guard.inference
    def look():
        ours = all(setting.same(setting.get()) for setting in guard.SETTINGS)
        return ours, torch.is_autocast_enabled("cpu"), torch.empty(0).device.type, np.geterr()

    with contextlib.ExitStack() as stack:
        for name in ("default bfloat16", "medium products", "no mkldnn", "device context",
                     "autocast bfloat16", "numpy raises"):  # fmt: skip
            stack.enter_context(STATES[name]())
        ours, autocast, device, errors = look()
    assert (ours, autocast, device, errors["over"]) == (True, False, "cpu", "warn")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_is_inside():
    """The child has only the thread that forked: the caller's settings hold there."""
    inside, done = threading.Event(), threading.Event()

    @guard.inference
    def wait():
        inside.set()
        assert done.wait(60)

    with STATES["default float64"]():
        thread = threading.Thread(target=wait)
        thread.start()
        assert inside.wait(60)
        assert torch.get_default_dtype() == torch.float32
        child = os.fork()
        if child == 0:
            kept = torch.get_default_dtype() == torch.float64
            guard.inference(lambda: None)()
            os._exit(0 if kept and torch.get_default_dtype() == torch.float64 else 1)
        status = os.waitpid(child, 0)[1]
        done.set()
        thread.join()
        assert os.waitstatus_to_exitcode(status) == 0
        assert torch.get_default_dtype() == torch.float64
