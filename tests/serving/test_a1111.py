"""A1111's API, called as Open WebUI and SillyTavern call it."""

import base64
import http.client
import io
import json
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw
from served import serving

from pyengine.metadata import A1111_CHUNK, CHUNK
from pyengine.serving.a1111 import infotext
from pyengine.serving.a1111.inpainting import filled

KEYS = ("first-secret", "second-secret")
API = "/sdapi/v1"
MODELS = ("emoji", "emoji-ar")


@pytest.fixture(scope="module")
def url(pipes):
    with serving(pipes["emoji"], pipes["emoji-ar"]) as found:
        yield found


@pytest.fixture(scope="module")
def locked(pipes):
    """A server with keys."""
    with serving(pipes["emoji"], api_keys=KEYS) as found:
        yield found


def post(url, path, body, **how):
    return httpx.post(f"{url}{API}/{path}", json=body, timeout=60, **how)


def get(url, path, **how):
    return httpx.get(f"{url}{API}/{path}", timeout=60, **how)


def picture(text):
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def encoded(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def same(one, other):
    return np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))


def basic(text):
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.fixture(scope="module")
def start():
    """A picture of a disk."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill="red")
    return image


# --- two clients ----------------------------------------------------------------------------------


def test_open_webui(url, pipes):
    """Its connection test, its list of models, its choice of one, and two pictures."""
    headers = {"authorization": ""}  # it has no key
    options = get(url, "options", headers=headers).json()
    models = [row["title"] for row in get(url, "sd-models", headers=headers).json()]
    assert models == list(MODELS)
    assert options["sd_model_checkpoint"] == "emoji"
    options["sd_model_checkpoint"] = "emoji-ar"
    assert post(url, "options", options, headers=headers).json() == {"ignored": []}
    assert get(url, "options", headers=headers).json()["sd_model_checkpoint"] == "emoji-ar"
    options["sd_model_checkpoint"] = "emoji"
    assert post(url, "options", options, headers=headers).status_code == 200
    body = {
        "prompt": "a red heart", "batch_size": 2, "width": 64, "height": 64, "steps": 4,
        "negative_prompt": "blue", "cfg_scale": 3.0, "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
    }  # fmt: skip
    answer = post(url, "txt2img", body, headers=headers).json()
    info = json.loads(answer["info"])
    assert info["ignored"] == []
    assert info["sampler_name"] == "DPM++ 2M Karras"
    assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
    assert len(answer["images"]) == len(info["infotexts"]) == 2
    for seed, image in zip(info["all_seeds"], answer["images"], strict=True):
        expected = pipes["emoji"](
            "a red heart",
            negative_prompt="blue",
            num_inference_steps=4,
            guidance_scale=3.0,
            scheduler="dpmpp_2m_karras",
            seed=seed,
        )
        assert same(picture(image), expected.images[0])
        settings = json.loads(picture(image).info[CHUNK])
        assert (settings["seed"], settings["sampler"]) == (seed, "dpmpp_2m_karras")
    # The seeds told, sent again, draw the same.
    again = post(url, "txt2img", {**body, "seed": info["seed"]}).json()
    assert [picture(a).tobytes() for a in again["images"]] == [
        picture(a).tobytes() for a in answer["images"]
    ]


def test_words_are_weighed_as_that_web_ui_does(url, pipes):
    body = {"prompt": "a (red:1.4) [heart]", "steps": 3, "seed": 5}
    answer = post(url, "txt2img", body).json()
    drawn = {"seed": 5, "num_inference_steps": 3}
    weighed = pipes["emoji"](body["prompt"], prompt_weighting="a1111", **drawn).images[0]
    assert same(picture(answer["images"][0]), weighed)
    assert not same(weighed, pipes["emoji"]("a red heart", **drawn).images[0])


def test_sillytavern(url):
    """Everything that it asks at the beginning, and what it sends for a picture."""
    headers = {"authorization": "Basic"}  # no key: nothing behind it
    assert get(url, "options", headers=headers).status_code == 200
    names = [row["name"] for row in get(url, "samplers", headers=headers).json()]
    assert {"Euler a", "DDIM", "DPM++ 2M", "DPM++ 2M Karras"} <= set(names)
    assert "Flow Euler" not in names  # for models of another kind
    spacings = [row["name"] for row in get(url, "schedulers", headers=headers).json()]
    assert {"automatic", "karras"} <= set(spacings)
    upscalers = [row["name"] for row in get(url, "upscalers", headers=headers).json()]
    assert upscalers == ["None"]
    for path in ("latent-upscale-modes", "sd-vae", "sd-modules"):
        assert get(url, path, headers=headers).json() == []
    post(url, "options", {"sd_model_checkpoint": "emoji"}, headers=headers)
    progress = get(url, "progress", headers=headers).json()
    assert (progress["progress"], progress["state"]["job_count"]) == (0.0, 0)
    body = {
        "url": url, "auth": "", "prompt": "a tree", "negative_prompt": "blue", "steps": 3,
        "sampler_name": "Euler a", "scheduler": "automatic", "cfg_scale": 7, "width": 64,
        "height": 64, "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent",
        "hr_scale": 1, "hr_second_pass_steps": 0, "denoising_strength": 0.7, "seed": -1,
        "clip_skip": 1, "do_not_save_grid": False, "do_not_save_samples": False,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": ""},
        "override_settings_restore_afterwards": True, "save_images": True, "send_images": True,
    }  # fmt: skip
    answer = post(url, "txt2img", body, headers=headers).json()
    info = json.loads(answer["info"])
    assert info["ignored"] == ["url", "auth", "clip_skip"]
    assert info["seed"] >= 0
    assert info["sampler_name"] == "Euler a"
    assert picture(answer["images"][0]).size == (64, 64)


def test_a_model_of_tokens_takes_what_clients_always_send(url, pipes):
    body = {"prompt": "a tree", "seed": 5, "steps": 20, "sampler_name": "Euler", "cfg_scale": 2.5,
            "override_settings": {"sd_model_checkpoint": "emoji-ar"}}  # fmt: skip
    answer = post(url, "txt2img", body).json()
    info = json.loads(answer["info"])
    assert info["ignored"] == ["steps", "sampler_name"]
    assert info["sd_model_name"] == "emoji-ar"
    expected = pipes["emoji-ar"]("a tree", seed=5, guidance_scale=2.5)
    assert same(picture(answer["images"][0]), expected.images[0])


# --- pictures and masks ---------------------------------------------------------------------------


def test_img2img(url, pipes, start):
    body = {
        "prompt": "a moon",
        "init_images": [f"data:image/png;base64,{encoded(start)}"],
        "denoising_strength": 0.6,
        "steps": 5,
        "seed": 9,
    }
    answer = post(url, "img2img", body).json()
    expected = pipes["emoji"]("a moon", image=start, strength=0.6, num_inference_steps=5, seed=9)
    assert same(picture(answer["images"][0]), expected.images[0])
    assert json.loads(answer["info"])["denoising_strength"] == 0.6
    assert "init_images" not in answer["parameters"]
    answer = post(url, "img2img", {**body, "include_init_images": True, "send_images": False})
    assert answer.json()["parameters"]["init_images"] == body["init_images"]
    assert answer.json()["images"] == []


@pytest.mark.parametrize("invert", [0, 1])
def test_within_a_mask(url, pipes, start, invert):
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((16, 16, 47, 63), fill=255)
    body = {
        "prompt": "a moon",
        "init_images": [encoded(start)],
        "mask": encoded(mask),
        "steps": 4,
        "inpainting_fill": 1,
        "inpainting_mask_invert": invert,
        "seed": 3,
    }
    answer = post(url, "img2img", body).json()
    given = mask.point(lambda p: 255 - p) if invert else mask
    expected = pipes["emoji"](
        "a moon", image=start, mask_image=given, strength=0.75, num_inference_steps=4, seed=3
    )
    assert same(picture(answer["images"][0]), expected.images[0])


def test_options_of_a_mask(url, pipes, start):
    """Only the masked part, with some of what is around it; filled with what is around it."""
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((24, 24, 39, 39), fill=255)
    body = {
        "prompt": "a moon",
        "init_images": [encoded(start)],
        "mask": encoded(mask),
        "steps": 4,
        "seed": 3,
    }
    whole = post(url, "img2img", {**body, "inpaint_full_res": True, "inpaint_full_res_padding": 8})
    expected = pipes["emoji"](
        "a moon",
        image=start,
        mask_image=mask,
        strength=0.75,
        num_inference_steps=4,
        seed=3,
        padding_mask_crop=8,
    )
    assert same(picture(whole.json()["images"][0]), expected.images[0])
    from_fill = post(url, "img2img", {**body, "inpainting_fill": 0}).json()
    expected = pipes["emoji"](
        "a moon",
        image=filled(start, mask),
        mask_image=mask,
        strength=0.75,
        num_inference_steps=4,
        seed=3,
    )
    assert same(picture(from_fill["images"][0]), expected.images[0])
    answer = post(url, "img2img", {**body, "inpainting_fill": 3})
    assert answer.status_code == 400
    assert "inpainting_fill" in answer.json()["detail"]


def test_what_is_filled_has_the_colours_around_it():
    image = Image.new("RGB", (300, 200), "blue")
    ImageDraw.Draw(image).rectangle((100, 60, 199, 139), fill="white")
    mask = Image.new("L", (300, 200), 0)
    ImageDraw.Draw(mask).rectangle((95, 55, 204, 144), fill=255)
    found = np.asarray(filled(image, mask)).astype(int)
    assert np.abs(found - (0, 0, 255)).max() <= 2
    assert filled(image, Image.new("L", (300, 200), 255)) is image  # nothing to take colours from


def test_cropped_to_the_size(url, pipes, start):
    wide = Image.new("RGB", (96, 64), "blue")
    wide.paste(start, (16, 0))
    body = {
        "prompt": "a moon",
        "init_images": [encoded(wide)],
        "resize_mode": 1,
        "width": 64,
        "height": 64,
        "steps": 4,
        "seed": 3,
    }
    answer = post(url, "img2img", body).json()
    expected = pipes["emoji"]("a moon", image=start, strength=0.75, num_inference_steps=4, seed=3)
    assert same(picture(answer["images"][0]), expected.images[0])


# --- settings of pictures -------------------------------------------------------------------------


def test_png_info_reads_what_was_written(url):
    prompt = 'a "red", heart: <b>\nNegative space'
    body = {"prompt": prompt, "negative_prompt": "blue", "steps": 3, "seed": 7}
    answer = post(url, "txt2img", body).json()
    found = post(url, "png-info", {"image": answer["images"][0]}).json()
    assert found["info"] == json.loads(answer["info"])["infotexts"][0]
    settings = json.loads(found["items"][CHUNK])
    assert (settings["prompt"], settings["seed"], settings["steps"]) == (prompt, 7, 3)
    own = found["parameters"]
    assert own["Prompt"] == prompt
    assert own["Negative prompt"] == "blue"
    assert (own["Steps"], own["Seed"], own["Model"]) == ("3", "7", "emoji")


def test_png_info_of_others(url, start):
    bare = post(url, "png-info", {"image": encoded(start)}).json()
    assert bare == {"info": "", "items": {}, "parameters": {}}
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(A1111_CHUNK, "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, Seed: 1")
    info.add_text(CHUNK, "{")
    data = io.BytesIO()
    start.save(data, "PNG", pnginfo=info)
    found = post(url, "png-info", {"image": base64.b64encode(data.getvalue()).decode()}).json()
    assert found["parameters"]["Sampler"] == "Euler a"
    assert found["parameters"]["Negative prompt"] == "dog"
    assert set(found["items"]) == {A1111_CHUNK}
    for image in ("", None, 3, "bm8=", "https://example.com/a.png"):
        answer = post(url, "png-info", {"image": image})
        assert answer.status_code == 400, image
        assert "image" in answer.json()["detail"]


@pytest.mark.parametrize("text", ["", "x", "a: b, c: d", "a\nSteps: 3, ", ':,:,:\n"', "Steps: 1"])
def test_any_text_is_parsed(text):
    assert all(isinstance(value, str) for value in infotext.parse(text).values())


# --- progress, interrupting, and whose work it is -------------------------------------------------


class Drawn(threading.Thread):
    """A request in the background."""

    def __init__(self, url, body, **how):
        super().__init__()
        self.url, self.body, self.how = url, body, how
        self.start()

    def run(self):
        self.answer = post(self.url, "txt2img", self.body, **self.how)

    def end(self):
        self.join(60)
        assert not self.is_alive()
        return self.answer


def until(check, seconds=30):
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


LONG = {"prompt": "a tree", "seed": 1, "steps": 1000, "width": 64, "height": 64}


def test_progress_and_interrupt(url):
    drawn = Drawn(url, LONG)
    shown = until(lambda: (p := get(url, "progress").json())["current_image"] and p)
    assert 0 < shown["progress"] < 1
    assert shown["eta_relative"] > 0
    assert shown["state"]["job_count"] == 1
    assert shown["state"]["sampling_steps"] == 1000
    assert picture(shown["current_image"]).size == (64, 64)
    assert get(url, "progress?skip_current_image=true").json()["current_image"] is None
    assert post(url, "interrupt", {}).json() == {}
    answer = drawn.end()
    assert answer.status_code == 200
    info = json.loads(answer.json()["info"])
    assert info["interrupted"] is True
    assert picture(answer.json()["images"][0]).size == (64, 64)
    until(lambda: get(url, "progress").json()["state"]["job_count"] == 0)
    assert httpx.post(f"{url}{API}/interrupt").json() == {}  # nobody's work, and no body


def test_nobody_interrupts_or_sees_anothers_work(locked):
    first, second = ({"headers": basic(f"user:{key}")} for key in KEYS)
    one, two = Drawn(locked, LONG, **first), Drawn(locked, LONG, **second)
    for who in (first, second):
        until(lambda who=who: get(locked, "progress", **who).json()["progress"] > 0)
    assert get(locked, "progress", **first).json()["state"]["job_count"] == 1
    post(locked, "skip", {}, **second)
    assert json.loads(two.end().json()["info"])["interrupted"]
    until(lambda: get(locked, "progress", **second).json()["state"]["job_count"] == 0)
    assert one.is_alive()
    assert get(locked, "progress", **first).json()["state"]["job_count"] == 1
    post(locked, "interrupt", {}, **first)
    one.end()
    post(locked, "options", {"CLIP_stop_at_last_layers": 2}, **first)
    layers = [
        get(locked, "options", **who).json()["CLIP_stop_at_last_layers"] for who in (first, second)
    ]
    assert layers == [2, 1]


def test_a_client_that_goes_ends_its_work(url):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}{API}/txt2img", json=LONG, timeout=0.5)
    until(lambda: get(url, "progress").json()["state"]["job_count"] == 0, 5)


def test_basic_with_a_space_and_nothing(url, locked):
    """httpx sends no such header."""
    found = []
    for place in (url, locked):
        connection = http.client.HTTPConnection(place.removeprefix("http://"), timeout=30)
        connection.request("GET", f"{API}/options", headers={"authorization": "Basic "})
        found.append(connection.getresponse().status)
        connection.close()
    assert found == [200, 401]


@pytest.mark.parametrize("header", ["", "Basic", "Basic bm9uZQ==", "Bearer wrong", "Basic \xff"])
def test_without_the_password_nothing(locked, header):
    answer = get(locked, "options", headers={"authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert set(answer.json()) == {"error", "detail", "body", "errors"}


# --- refusals -------------------------------------------------------------------------------------

REFUSED = [
    ({"steps": 0}, "steps"),
    ({"steps": "many"}, "steps"),
    ({"cfg_scale": [1]}, "cfg_scale"),
    ({"width": -8}, "width"),
    ({"width": 63}, "width"),
    ({"batch_size": 1000, "n_iter": 1000}, "batch_size"),
    ({"batch_size": 11}, "batch_size"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"sampler_name": "DPM 5"}, "sampler_name"),
    ({"scheduler": "Polyexponential"}, "scheduler"),
    ({"sampler_name": "DDIM", "scheduler": "Karras"}, "scheduler"),
    ({"enable_hr": True}, "enable_hr"),
    ({"restore_faces": True}, "restore_faces"),
    ({"styles": ["anime"]}, "styles"),
    ({"alwayson_scripts": {"controlnet": {}}}, "alwayson_scripts"),
    ({"prompt": 3}, "prompt"),
    ({"override_settings": {"sd_model_checkpoint": "sdxl"}}, "model"),
    ({"override_settings": {"samples_format": "exe"}}, "samples_format"),
    ({"override_settings": {"CLIP_stop_at_last_layers": 99}}, "CLIP_stop_at_last_layers"),
    ({"override_settings": []}, "override_settings"),
    ({"send_images": "yes"}, "send_images"),
]


@pytest.mark.parametrize(("body", "word"), REFUSED, ids=lambda v: str(v)[:40])
def test_refusals_name_the_field(url, body, word):
    answer = post(url, "txt2img", {"prompt": "x", **body})
    assert answer.status_code in (400, 404), answer.text
    found = answer.json()
    assert set(found) == {"error", "detail", "body", "errors"}
    assert word in found["detail"]


def test_refusals_of_pictures(url, start):
    for body in (
        {},
        {"init_images": []},
        {"init_images": [encoded(start)] * 2},
        {"init_images": ["%%"]},
        {"init_images": ["http://127.0.0.1/a.png"]},
        {"init_images": [encoded(start)], "mask": 5},
        {"init_images": [encoded(start)], "resize_mode": 2},
    ):
        answer = post(url, "img2img", {"prompt": "x", **body})
        assert answer.status_code == 400, answer.text
        assert set(answer.json()) == {"error", "detail", "body", "errors"}
    body = {
        "prompt": "x",
        "init_images": [encoded(start)],
        "override_settings": {"sd_model_checkpoint": "emoji-ar"},
    }
    assert "init_images" in post(url, "img2img", body).json()["detail"]


def test_bodies_that_are_none(url):
    for data in (b"", b"[]", b"{", b"\xff", b'{"prompt": NaN}', b"[" * 1000):
        answer = httpx.post(
            f"{url}{API}/txt2img", content=data, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400, (data, answer.text)
        assert answer.json()["body"] == ""
    assert get(url, "no-such-path").status_code == 404
    assert set(get(url, "no-such-path").json()) == {"error", "detail", "body", "errors"}


def test_a_spacing_is_told(url, pipes):
    body = {"prompt": "a tree", "steps": 5, "seed": 3, "sampler_name": "Euler", "scheduler": "Beta"}
    answer = post(url, "txt2img", body).json()
    info = json.loads(answer["info"])
    assert info["sampler_name"] == "Euler"
    assert info["extra_generation_params"] == {"Schedule type": "Beta"}
    assert "Sampler: Euler, Schedule type: Beta, " in info["infotexts"][0]
    call = {"num_inference_steps": 5, "seed": 3}
    expected = pipes["emoji"]("a tree", scheduler="euler_beta", **call)
    assert same(picture(answer["images"][0]), expected.images[0])
    assert not same(
        picture(answer["images"][0]), pipes["emoji"]("a tree", scheduler="euler", **call).images[0]
    )


def test_other_files_and_options(url):
    body = {"prompt": "a tree", "steps": 2, "override_settings": {"samples_format": "jpg"}}
    answer = post(url, "txt2img", body).json()
    assert picture(answer["images"][0]).format == "JPEG"
    assert get(url, "options").json()["samples_format"] == "png"  # of that request alone
    found = post(url, "options", {"sd_model_checkpoint": "emoji [bc5ca30f1b]", "what": 1}).json()
    assert found == {"ignored": ["what"]}
    for path in ("loras", "scripts", "embeddings", "cmd-flags", "script-info", "face-restorers"):
        assert get(url, path).status_code == 200
    assert httpx.post(f"{url}{API}/refresh-checkpoints").json() is None
