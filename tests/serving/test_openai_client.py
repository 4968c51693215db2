"""OpenAI's own client against the server: generate, stream, edit, errors, retries, timeouts."""

import http.client
import re
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from served import SHORT, to_image, to_png

from pyengine import metadata

SEED = {"seed": 5, "steps": 4}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture
def picture():
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((64, 64))


def same(text, image):
    return np.array_equal(np.asarray(to_image(text)), np.asarray(image))


def test_models(client):
    assert [model.id for model in client.models.list()][:2] == ["emoji", "emoji-ar"]
    assert client.models.retrieve("emoji").object == "model"
    assert all("/" not in model.id for model in client.models.list())


def test_pictures_have_the_bits_of_the_call(client, pipes):
    drawn = client.images.generate(prompt="a cat", n=3, extra_body=SEED)
    expected = pipes["emoji"]("a cat", seed=5, num_inference_steps=4, num_images_per_prompt=3)
    for i, item in enumerate(drawn.data):
        assert same(item.b64_json, expected.images[i])
        assert item.seed == 5 + i
    assert drawn.size == "64x64"
    assert drawn.output_format == "png"
    usage = drawn.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.text_tokens > 0


def test_a_seed_that_is_told_redraws_its_picture(client):
    drawn = client.images.generate(prompt="a cat", n=2, extra_body={"steps": 3})
    assert drawn.data[1].seed == drawn.data[0].seed + 1
    body = {"steps": 3, "seed": drawn.data[1].seed}
    again = client.images.generate(prompt="a cat", extra_body=body)
    assert same(again.data[0].b64_json, to_image(drawn.data[1].b64_json))


def test_every_png_carries_its_settings(client, tmp_path):
    body = {**SEED, "scheduler": "Euler a", "negative_prompt": "blue"}
    drawn = client.images.generate(prompt="a cat", n=2, model="emoji", extra_body=body)
    for i, item in enumerate(drawn.data):
        to_image(item.b64_json).save(
            path := tmp_path / f"{i}.png", pnginfo=_info(to_image(item.b64_json))
        )
        settings = metadata.read(path)
        assert (settings.seed, settings.index, settings.count) == (5 + i, i, 2)
        assert (settings.steps, settings.scheduler) == (4, "euler_ancestral")
        assert (settings.prompt, settings.negative_prompt) == ("a cat", "blue")
        assert settings.model == "emoji"


def _info(image):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name in ("parameters", "pyengine"):
        info.add_text(name, image.text[name])
    return info


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats_and_urls(client, kind):
    drawn = client.images.generate(
        prompt="a cat",
        output_format=kind,
        response_format="url",
        output_compression=80,
        extra_body=SEED,
    )
    assert drawn.data[0].url.startswith(f"data:image/{kind};base64,")
    image = to_image(drawn.data[0].url)
    assert image.format.lower() == kind
    assert image.size == (64, 64)


def test_arguments_of_all_kinds(client, pipes):
    body = {"seed": 2, "temperature": 0.7, "top_k": 50, "min_p": None, "guidance": 1.5}
    drawn = client.images.generate(prompt="a tree", model="emoji-ar", extra_body=body)
    call = {"seed": 2, "temperature": 0.7, "top_k": 50, "guidance_scale": 1.5}
    assert same(drawn.data[0].b64_json, pipes["emoji-ar"]("a tree", **call).images[0])
    body = {"seed": 2, "sigmas": [10.0, 3.0, 1.0], "scheduler": "euler", "eta": 0}
    drawn = client.images.generate(prompt="a tree", size="48x72", extra_body=body)
    call = {"height": 72, "width": 48, "scheduler": "euler", "sigmas": [10.0, 3.0, 1.0]}
    assert same(drawn.data[0].b64_json, pipes["emoji"]("a tree", seed=2, **call).images[0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_stream_shows_pictures_of_its_steps(client, pipes, count):
    begin, times = time.perf_counter(), []
    events = []
    for event in client.images.generate(
        prompt="a cat", stream=True, partial_images=count, extra_body={"seed": 5, "steps": 12}
    ):
        events.append(event)
        times.append(time.perf_counter() - begin)
    assert [event.type for event in events] == [
        *["image_generation.partial_image"] * count,
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:-1]] == list(range(count))
    shown = {}
    for step in pipes["emoji"].steps("a cat", seed=5, num_inference_steps=12):
        shown[step.step + 1] = step.preview()[0]
    for event in events[:-1]:
        assert same(event.b64_json, shown[event.step])
    assert events[0].step <= 6
    assert same(
        events[-1].b64_json, pipes["emoji"]("a cat", seed=5, num_inference_steps=12).images[0]
    )
    assert events[-1].usage.total_tokens > 0


def test_a_stream_of_several(client):
    events = list(
        client.images.generate(prompt="a cat", n=2, stream=True, partial_images=1, extra_body=SEED)
    )
    assert [(event.type.rpartition(".")[2], event.image_index) for event in events] == [
        ("partial_image", 0), ("partial_image", 1), ("completed", 0), ("completed", 1)
    ]  # fmt: skip


def test_an_error_in_a_stream_is_raised(client):
    body = {"steps": 1000, "deadline": 0.6, "seed": 1}
    with pytest.raises(openai.APIError) as caught:
        list(client.images.generate(prompt="a cat", stream=True, extra_body=body))
    assert "deadline" in str(caught.value)


# --- edits ----------------------------------------------------------------------------------------


def test_an_edit_is_the_call_with_a_picture(client, pipes, picture):
    drawn = client.images.edit(
        image=to_png(picture), prompt="a cat", extra_body={**SEED, "strength": 0.7}
    )
    call = {"seed": 5, "num_inference_steps": 4, "image": picture, "strength": 0.7}
    assert same(drawn.data[0].b64_json, pipes["emoji"]("a cat", **call).images[0])
    assert drawn.usage.input_tokens_details.image_tokens == 64


def test_transparent_parts_of_a_mask_are_made_anew(client, pipes, picture):
    mask = Image.new("RGBA", (64, 64), (9, 9, 9, 255))
    mask.paste((200, 0, 0, 0), (0, 0, 32, 64))
    white = Image.new("L", (64, 64), 0)
    white.paste(255, (0, 0, 32, 64))
    expected = pipes["emoji"](
        "a cat", seed=5, num_inference_steps=4, image=picture, mask_image=white
    ).images[0]
    drawn = client.images.edit(
        image=[to_png(picture)], mask=to_png(mask), prompt="a cat", extra_body=SEED
    )
    assert same(drawn.data[0].b64_json, expected)
    drawn = client.images.edit(
        image=to_png(picture),
        prompt="a cat",
        extra_body=SEED,
        extra_query={},
        mask=("mask.png", to_png(mask), "application/octet-stream"),
    )
    assert same(drawn.data[0].b64_json, expected)


def test_a_transparent_picture_is_its_own_mask(client, pipes, picture):
    cut = picture.convert("RGBA")
    cut.paste((0, 0, 0, 0), (0, 0, 64, 20))
    white = Image.new("L", (64, 64), 0)
    white.paste(255, (0, 0, 64, 20))
    flat = picture.copy()
    flat.paste((255, 255, 255), (0, 0, 64, 20))
    drawn = client.images.edit(image=to_png(cut), prompt="a cat", extra_body=SEED)
    call = {"seed": 5, "num_inference_steps": 4, "image": flat, "mask_image": white}
    assert same(drawn.data[0].b64_json, pipes["emoji"]("a cat", **call).images[0])


def test_an_edit_as_json(server, pipes, picture):
    import base64

    url = "data:image/png;base64," + base64.b64encode(to_png(picture)).decode()
    body = {**SHORT, "images": [{"image_url": url}], "strength": 0.5}
    drawn = httpx.post(f"{server.url}/v1/images/edits", json=body).json()
    expected = pipes["emoji"](**SHORT, image=picture, strength=0.5).images[0]
    assert same(drawn["data"][0]["b64_json"], expected)


def test_an_edit_is_streamed(client, picture):
    events = client.images.edit(
        image=to_png(picture),
        prompt="a cat",
        stream=True,
        partial_images=2,
        extra_body={"seed": 1, "steps": 8},
    )
    kinds = [event.type for event in events]
    assert kinds == [*["image_edit.partial_image"] * 2, "image_edit.completed"]


def test_a_variation(client, pipes, picture):
    with pytest.warns(DeprecationWarning, match="deprecated"):
        drawn = client.images.create_variation(image=to_png(picture), n=2, extra_body=SEED)
    call = {"seed": 5, "num_inference_steps": 4, "image": picture, "num_images_per_prompt": 2}
    expected = pipes["emoji"]("", **call)
    for item, image in zip(drawn.data, expected.images, strict=True):
        assert same(item.b64_json, image)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "kind", "param"), [
    ({"prompt": None}, openai.BadRequestError, "prompt"),
    ({"prompt": "x" * 32_001}, openai.BadRequestError, "prompt"),
    ({"model": "nothing"}, openai.NotFoundError, "model"),
    ({"n": 11}, openai.BadRequestError, "n"),
    ({"n": 0}, openai.BadRequestError, "n"),
    ({"size": "65x64"}, openai.BadRequestError, "size"),
    ({"size": "big"}, openai.BadRequestError, "size"),
    ({"steps": 0}, openai.BadRequestError, "steps"),
    ({"num_inference_steps": "4"}, openai.BadRequestError, "num_inference_steps"),
    ({"seed": -1}, openai.BadRequestError, "seed"),
    ({"seed": True}, openai.BadRequestError, "seed"),
    ({"guidance_scale": 1e9}, openai.BadRequestError, "guidance_scale"),
    ({"scheduler": "nothing"}, openai.BadRequestError, "scheduler"),
    ({"top_k": 7}, openai.BadRequestError, "top_k"),
    ({"upscaler": "/etc"}, openai.BadRequestError, "upscaler"),
    ({"classifier": "/etc"}, openai.BadRequestError, "classifier"),
    ({"clip_model": "/etc"}, openai.BadRequestError, "clip_model"),
    ({"latents": [1.0]}, openai.BadRequestError, "latents"),
    ({"run": 1}, openai.BadRequestError, "run"),
    ({"nothing": 1}, openai.BadRequestError, "nothing"),
    ({"background": "transparent"}, openai.BadRequestError, "background"),
    ({"image": "http://127.0.0.1/a.png"}, openai.BadRequestError, "image"),
    ({"image": "data:image/png;base64,AAAA"}, openai.BadRequestError, "image"),
    ({"timesteps": [[1]]}, openai.BadRequestError, "timesteps"),
    ({"deadline": 1e-4}, openai.RateLimitError, "deadline"),
])  # fmt: skip
def test_errors_name_the_field(client, body, kind, param):
    call = {"prompt": "a cat", **body}
    prompt = call.pop("prompt")
    with pytest.raises(kind) as caught:
        client.images.generate(prompt=prompt, extra_body=call)
    error = caught.value
    assert error.param == param
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.request_id
    assert error.response.headers["x-request-id"] == error.request_id


def test_what_is_too_large_is_refused_at_once(client):
    begin = time.perf_counter()
    with pytest.raises(openai.APIStatusError, match="too large") as caught:
        client.images.generate(prompt="x", n=10, size="1024x1024", extra_body={"steps": 1000})
    assert caught.value.status_code == 400
    assert time.perf_counter() - begin < 20


def status(found, authorization):
    """Of an answer to that header: httpx would not send a blank at its end."""
    connection = http.client.HTTPConnection(found.host, found.port)
    try:
        connection.request("GET", "/v1/models", headers={"authorization": authorization})
        return connection.getresponse().status
    finally:
        connection.close()


def test_keys(serve):
    with serve(api_keys=("secret", "other")) as found:
        for key in ("wrong", "secre", ""):
            with (
                openai.OpenAI(base_url=f"{found.url}/v1", api_key=key or "-") as client,
                pytest.raises(openai.AuthenticationError) as caught,
            ):
                client.models.list()
            assert set(caught.value.body) == {"message", "type", "param", "code"}
        with openai.OpenAI(base_url=f"{found.url}/v1", api_key="other") as client:
            assert client.models.list().data
        basic = httpx.get(f"{found.url}/v1/models", auth=("user", "secret"))
        assert basic.status_code == 200
        for header in ("Basic ", "Basic ////", "Basic", "Bearer ", "secret"):
            assert status(found, header) == 401
        assert httpx.get(f"{found.url}/healthz").status_code == 200


def test_without_keys_any_header_will_do(server):
    for header in ("Basic ", "Bearer any", ""):
        assert status(server, header) == 200


def test_the_client_comes_again_when_the_queue_was_full(serve, pipes):
    """Its own retries, by Retry-After, draw the picture in the end."""
    import threading

    import pyengine

    with (
        pyengine.Engine(pipes["emoji"], max_waiting=1) as engine,
        serve(engine=engine) as found,
        openai.OpenAI(base_url=f"{found.url}/v1", api_key="-", max_retries=9) as client,
    ):
        blocking = [
            engine.submit(prompt="a", seed=k, num_inference_steps=300, height=64 + 8 * k)
            for k in range(1)
        ]
        while not engine.running:
            time.sleep(0.01)
        waits = engine.submit(prompt="b", num_inference_steps=3)
        with pytest.raises(openai.RateLimitError) as caught:
            client.with_options(max_retries=0).images.generate(prompt="a cat", extra_body=SEED)
        assert float(caught.value.response.headers["retry-after"]) >= 1
        threading.Timer(0.3, lambda: [job.cancel() for job in [*blocking, waits]]).start()
        assert client.images.generate(prompt="a cat", extra_body=SEED).data


def test_a_deadline_that_passes_is_not_tried_again(serve, pipes):
    import pyengine

    with (
        pyengine.Engine(pipes["emoji"]) as engine,  # fresh: it does not know what a step costs
        serve(engine=engine) as found,
        openai.OpenAI(base_url=f"{found.url}/v1", api_key="-", max_retries=5) as client,
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            client.images.generate(
                prompt="a", size="128x128", extra_body={"steps": 1000, "deadline": 0.5}
            )
        assert caught.value.status_code == 408
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert engine.running == engine.waiting == 0


def test_a_client_that_gives_up_cancels_its_job(serve, engine):
    with (
        serve(deadline=1e5) as found,
        openai.OpenAI(base_url=f"{found.url}/v1", api_key="-", max_retries=0) as client,
    ):
        with pytest.raises(openai.APITimeoutError):
            client.images.generate(
                prompt="a", extra_body={"steps": 1000}, size="256x256", timeout=0.7
            )
        until = time.monotonic() + 5
        while engine.running and time.monotonic() < until:
            time.sleep(0.01)
        assert engine.running == engine.waiting == 0
        stream = client.images.generate(
            prompt="a", stream=True, partial_images=3, extra_body={"steps": 1000}, size="256x256"
        )
        while not engine.running:
            time.sleep(0.01)
        stream.close()
        until = time.monotonic() + 5
        while engine.running and time.monotonic() < until:
            time.sleep(0.01)
        assert engine.running == engine.waiting == 0
        assert client.images.generate(prompt="a cat", extra_body=SEED).data


def test_the_page_on_serving_shows_what_works(server):
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    names = {}
    exec(code.replace("http://127.0.0.1:8000", server.url), names)
    assert [item.seed for item in names["drawn"].data] == [7, 8]
    names["client"].close()
