"""The page's files, and what it is told of the models; test_page_in_a_browser.py drives it."""

import re

import httpx
import pytest
from served import serving

import pyengine
from pyengine.pipelines.arguments import BY_NAME
from pyengine.serving.page.routes import FOLDER


@pytest.fixture(scope="module")
def url(pipes):
    with serving(pipes["emoji"], pipes["emoji-ar"], api_keys=("secret",)) as found:
        yield found


@pytest.fixture(scope="module")
def told(url):
    headers = {"authorization": "Bearer secret"}
    return httpx.get(f"{url}/page/models.json", headers=headers).json()


def test_the_page_needs_no_key_and_what_it_asks_does(url):
    assert httpx.get(url).headers["content-type"] == "text/html; charset=utf-8"
    for path in ("page/models.json", "v1/models", "sdapi/v1/options"):
        assert httpx.get(f"{url}/{path}").status_code == 401


def test_nothing_may_come_from_elsewhere(url):
    policy = httpx.get(url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in FOLDER.iterdir():
        text = path.read_text()
        found = re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", text)
        assert set(found) <= {"http://www.w3.org/2000/svg"}, path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|\son\w+=", text)


def test_only_its_own_files_are_serving(url):
    page = httpx.get(url)
    for name in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text):
        answer = httpx.get(f"{url}/{name}")
        assert answer.status_code == 200, name
        again = httpx.get(f"{url}/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for name in ("..%2froutes.py", "routes.py", "", "%00", "inputs.py", "x" * 5000):
        answer = httpx.get(f"{url}/page/{name}")
        assert answer.status_code == 404, name
        assert answer.json()["error"]["message"]


def test_inputs_are_the_tables(told):
    assert [model["name"] for model in told["models"]] == ["emoji", "emoji-ar"]
    for model in told["models"]:
        assert model["prompt"]
        assert (model["width"], model["height"]) == (64, 64)
        for row in model["inputs"]:
            argument = BY_NAME[row["name"]]
            assert row["setting"] == argument.setting
            assert row["help"] == argument.help
            if row["kind"] in ("whole", "real"):
                assert row["low"] == argument.kind.low
                low, high = row["usual"] or (row["low"], row["high"])
                assert row["low"] <= low < high <= row["high"]
                assert row["default"] is None or low <= row["default"] <= high
    emoji, tokens = ({row["name"] for row in model["inputs"]} for model in told["models"])
    assert {"num_inference_steps", "scheduler", "seed", "image", "width"} <= emoji
    assert {"temperature", "top_k", "prefix", "seed"} <= tokens
    assert not tokens & {"num_inference_steps", "scheduler", "width"}  # it draws one size only
    # They load something, or need what is not loaded.
    assert not emoji & {"upscaler", "clip_model", "clip_guidance_scale", "control_image", "lora"}
    assert told["limits"]["pictures"] == 10


def test_samplers_are_those_that_draw_with_the_model(told):
    rows = {row["name"]: row for row in told["models"][0]["inputs"]}
    assert rows["scheduler"]["default"] == "ddim"
    assert {"euler", "dpmpp_2m_karras"} <= set(rows["scheduler"]["choices"])
    assert not {"flow_euler", "edm_euler"} & set(rows["scheduler"]["choices"])


def test_settings_that_people_use_are_told_by_the_table():
    rows = [row for row in BY_NAME.values() if row.usual is not None]
    assert len(rows) >= 8
    assert all(row.kind.low <= row.usual[0] < row.usual[1] <= row.kind.high for row in rows)


def test_loras_of_a_folder_are_told(tmp_path):
    (tmp_path / "ink.safetensors").touch()
    pipe = pyengine.from_pretrained("emoji", lora_dir=tmp_path)
    assert pipe.lora_names == ("ink",)
    with serving(pipe) as url:
        (model,) = httpx.get(f"{url}/page/models.json").json()["models"]
        (row,) = [row for row in model["inputs"] if row["name"] == "lora"]
        assert (row["kind"], row["help"]) == ("text", "Such as name:0.8, of ink.")
        (lora,) = httpx.get(f"{url}/sdapi/v1/loras").json()
        assert (lora["name"], lora["path"]) == ("ink", "ink")
