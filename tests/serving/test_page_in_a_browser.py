"""The page in Chromium: a user's ways through it."""

import base64
import io
import json
import os
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from served import serving

from pyengine.metadata import CHUNK

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra `dev`)")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip("needs a Chromium on the PATH", allow_module_level=True)

sync_api.expect.set_options(timeout=30_000)  # of a busy machine

SCRIPT = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
#: Steps that take seconds.
LONG = "1000"


@pytest.fixture(scope="module")
def url(pipes):
    with serving(pipes["emoji"], pipes["emoji-ar"]) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        sandbox = [] if os.getuid() else ["--no-sandbox"]  # Chromium has none for root
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield found
        found.close()


@pytest.fixture
def opened(browser, url):
    """opened(**context): a page that is ready. Whatever it asks of others, and every error of its
    scripts, fails the test.
    """
    contexts, wrong = [], []

    def open_page(address=url, ready="Ready", **how):
        context = browser.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on(
            "request",
            lambda r: (
                wrong.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None
            ),
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(address)
        sync_api.expect(page.get_by_role("status")).to_have_text(ready)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def prompt(page):
    return page.get_by_role("textbox", name="Prompt")


def generate(page, text="a red heart", **said):
    """Draws, and waits for it."""
    prompt(page).fill(text)
    for label, value in said.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Generate").click()
    done(page)


def done(page, text="Done: "):
    sync_api.expect(page.get_by_role("status")).to_contain_text(text)
    sync_api.expect(page.get_by_role("button", name="Generate")).to_be_enabled()


def shown(page):
    """The stage's pictures, decoded."""
    sources = page.locator("#stage img").evaluate_all("all => all.map(image => image.src)")
    return [Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2]))) for s in sources]


def same(one, other):
    return np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))


def fits(page):
    """Whether nothing is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# --- drawing --------------------------------------------------------------------------------------


def test_generate_with_previews(opened, pipes):
    page = opened()
    page.evaluate("""() => {
        window.seen = []; window.states = [];
        const watch = (id, note) => new MutationObserver(note).observe(
            document.getElementById(id), { subtree: true, childList: true, attributes: true });
        watch("stage", () => document.querySelectorAll("#stage img").forEach(
            image => window.seen.push(image.alt)));
        watch("state", () => window.states.push(document.getElementById("state").textContent));
    }""")
    generate(page, "a red heart", Seed="5", Steps="30", **{"Guidance scale": "3"})
    (picture,) = shown(page)
    expected = pipes["emoji"]("a red heart", seed=5, num_inference_steps=30, guidance_scale=3.0)
    assert same(picture, expected.images[0])
    assert json.loads(picture.info[CHUNK])["seed"] == 5
    assert page.locator("#stage img").get_attribute("alt") == "a red heart, seed 5"
    preview = r"Preview of a red heart, step (\d+) of 30"
    found = [re.fullmatch(preview, alt) for alt in page.evaluate("window.seen")]
    steps = [int(match[1]) for match in found if match]
    assert len(set(steps)) >= 3
    assert steps == sorted(steps)
    states = page.evaluate("window.states")
    assert "Drawing" in " ".join(states)
    assert re.fullmatch(r"Done: 1 picture in [\d.]+ s, seed 5", states[-1])


def test_several_pictures_and_the_models_own_settings(opened, pipes):
    page = opened()
    generate(page, "a tree", Seed="8", Pictures="2", Steps="4")
    expected = pipes["emoji"]("a tree", seed=8, num_images_per_prompt=2, num_inference_steps=4)
    assert all(map(same, shown(page), expected.images))
    page.get_by_label("Model").select_option("emoji-ar")
    assert page.get_by_label("Steps", exact=True).count() == 0
    page.get_by_label("Pictures").fill("1")
    page.get_by_label("Temperature").fill("0.5")
    generate(page, "a tree")
    (picture,) = shown(page)
    assert same(picture, pipes["emoji-ar"]("a tree", seed=8, temperature=0.5).images[0])


def test_cancel(opened):
    page = opened()
    cancel = page.get_by_role("button", name="Cancel")
    sync_api.expect(cancel).to_be_disabled()
    prompt(page).fill("a tree")
    page.get_by_label("Steps", exact=True).fill(LONG)
    page.get_by_role("button", name="Generate").click()
    sync_api.expect(page.get_by_role("status")).to_contain_text("Drawing")
    cancel.click()
    sync_api.expect(page.get_by_role("status")).to_have_text("Cancelled")
    sync_api.expect(cancel).to_be_disabled()
    generate(page, "a tree", Steps="3")  # and the next one draws


def test_what_is_refused_is_told(opened):
    page = opened()
    prompt(page).fill("a tree")
    page.get_by_label("Width").fill("63")
    page.get_by_role("button", name="Generate").click()
    sync_api.expect(page.get_by_role("status")).to_contain_text("width: expected")
    assert "bad" in page.get_by_role("status").get_attribute("class")
    page.get_by_label("Width").fill("-3")  # the browser itself says what a number may be
    page.get_by_role("button", name="Generate").click()
    assert page.get_by_label("Width").evaluate("box => document.activeElement === box")


def test_from_a_picture(opened, pipes, tmp_path):
    start = pipes["emoji"]("a moon", seed=1, num_inference_steps=4).images[0]
    start.save(tmp_path / "moon.png")
    page = opened()
    page.get_by_text("More settings").click()
    page.get_by_label("Init image").set_input_files(tmp_path / "moon.png")
    sync_api.expect(page.get_by_alt_text("Init image: moon.png")).to_be_visible()
    generate(page, "a red heart", Seed="2", Steps="5", Strength="0.6")
    expected = pipes["emoji"](
        "a red heart", image=start, strength=0.6, seed=2, num_inference_steps=5
    )
    assert same(shown(page)[0], expected.images[0])
    page.get_by_role("button", name="Again with this seed").click()
    sync_api.expect(page.get_by_role("status")).to_contain_text("give it again")


# --- history, comparing, dropped pictures ---------------------------------------------------------


def test_again_with_this_seed(opened, pipes):
    page = opened()
    generate(page, "a tree", Steps="4")
    (first,) = shown(page)
    generate(page, "two cats", Steps="3")
    assert page.locator("#history li").count() == 2
    page.get_by_role("button", name="Again with this seed").nth(1).click()
    sync_api.expect(page.locator("#stage img[alt^='a tree, seed']")).to_be_visible()
    done(page)
    assert same(shown(page)[0], first)
    assert prompt(page).input_value() == "a tree"
    assert page.get_by_label("Seed").input_value() == str(json.loads(first.info[CHUNK])["seed"])
    page.reload()  # the history stays
    done(page, "Ready")
    assert page.locator("#history li").count() == 3
    page.get_by_role("button", name="Clear history").click()
    assert page.locator("#history li").count() == 0


@pytest.mark.parametrize(("what", "width"), [("seed", 1280), ("scheduler", 360)])
def test_two_side_by_side(opened, pipes, what, width):
    page = opened(viewport={"width": width, "height": 800})
    page.get_by_label("Compare with").select_option(what)
    if what == "seed":
        page.get_by_label("Second seed").fill("10")
        calls = [{"seed": 9}, {"seed": 10}]
    else:
        page.get_by_label("Second sampler").select_option("euler_ancestral")
        calls = [{"seed": 9}, {"seed": 9, "scheduler": "euler_ancestral"}]
    page.get_by_label("Seed", exact=True).fill("9")
    generate(page, "a moon", Steps="4")
    for picture, call in zip(shown(page), calls, strict=True):
        assert same(picture, pipes["emoji"]("a moon", num_inference_steps=4, **call).images[0])
    first, second = (page.locator("#stage .frame").nth(i).bounding_box() for i in range(2))
    assert first["y"] == pytest.approx(second["y"], abs=2)
    assert first["x"] + first["width"] <= second["x"]
    assert fits(page)


def drop(page, name, data):
    page.evaluate(
        """([name, data]) => {
            const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name, { type: "image/png" }));
            for (const kind of ["dragover", "drop"]) {
                document.body.dispatchEvent(new DragEvent(kind,
                    { bubbles: true, cancelable: true, dataTransfer: carried }));
            }
        }""",
        [name, base64.b64encode(data).decode()],
    )


def test_a_dropped_picture_tells_its_settings(opened, pipes):
    page = opened()
    page.get_by_label("Guidance scale").fill("4")
    page.get_by_label("Negative", exact=True).fill("blue")
    page.get_by_label("Scheduler").select_option("dpmpp_2m")
    generate(page, SCRIPT, Seed="77", Steps="6")
    (picture,) = shown(page)
    source = page.locator("#stage img").get_attribute("src")
    other = opened()
    drop(other, "heart.png", base64.b64decode(source.partition(",")[2]))
    sync_api.expect(other.get_by_role("status")).to_contain_text("Settings read from heart.png.")
    assert prompt(other).input_value() == SCRIPT
    expected = {"Seed": "77", "Steps": "6", "Guidance scale": "4", "Negative": "blue",
                "Scheduler": "dpmpp_2m", "Width": ""}  # fmt: skip
    told = {label: other.get_by_label(label, exact=True).input_value() for label in expected}
    assert told == expected
    other.get_by_role("button", name="Generate").click()
    done(other)
    assert same(shown(other)[0], picture)


def test_a_dropped_picture_without_settings(opened, tmp_path):
    page = opened()
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    drop(page, "plain.png", data.getvalue())
    sync_api.expect(page.get_by_role("status")).to_contain_text("carries no settings")
    drop(page, "none.png", b"nothing")
    sync_api.expect(page.get_by_role("status")).to_contain_text("image: ")
    (tmp_path / "chosen.png").write_bytes(data.getvalue())
    page.get_by_label("Read settings from a picture").set_input_files(tmp_path / "chosen.png")
    sync_api.expect(page.get_by_role("status")).to_contain_text("carries no settings")


def test_a_script_in_a_prompt_is_text(opened):
    page = opened()
    generate(page, SCRIPT, Steps="3")
    assert page.locator("#stage img").get_attribute("alt").startswith(SCRIPT)
    assert page.locator("#history .what").inner_text() == SCRIPT
    page.reload()
    done(page, "Ready")
    assert page.locator("#history .what").inner_text() == SCRIPT
    assert page.evaluate("window.hit") is None
    assert page.locator("img[src='x']").count() == 0


# --- who uses it, and on what ---------------------------------------------------------------------


def test_a_narrow_window(opened):
    page = opened(viewport={"width": 360, "height": 640}, has_touch=True)
    assert fits(page)
    page.get_by_text("More settings").click()
    assert fits(page)
    generate(page, "x" * 300, Steps="3")
    assert fits(page)
    box = page.locator("#stage img").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    controls = "button:visible, select:visible, input:not([type=range]):visible"
    for control in page.locator(controls).all():
        assert control.bounding_box()["height"] >= 24  # WCAG 2.2, target size


def test_keyboard_only(opened):
    page = opened()
    focused = "document.activeElement.id || document.activeElement.className"
    order = []
    for _ in range(5):
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
    assert order == ["skip", "model", "prompt", "generate", order[-1]]
    page.get_by_label("Steps", exact=True).fill("4")
    prompt(page).focus()
    page.keyboard.type("a tree")
    page.keyboard.press("Control+Enter")
    done(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Generate; the focus goes on to Cancel
    sync_api.expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    done(page)
    sync_api.expect(page.get_by_role("button", name="Generate")).to_be_focused()
    page.get_by_label("Steps", exact=True).focus()
    page.keyboard.press("Control+a")
    page.keyboard.type(LONG)
    page.keyboard.press("Enter")
    sync_api.expect(page.get_by_role("status")).to_contain_text("Drawing")
    page.keyboard.press("Escape")
    sync_api.expect(page.get_by_role("status")).to_have_text("Cancelled")


def test_everything_has_a_name(opened):
    page = opened()
    page.get_by_text("More settings").click()
    generate(page, "a tree", Steps="2")
    nameless = page.evaluate("""() => [...document.querySelectorAll(
        "input:not([aria-hidden]), select, textarea, button")].filter(e => !(
            (e.labels && [...e.labels].some(l => l.textContent.trim()))
            || e.textContent.trim() || e.getAttribute("aria-label"))).map(e => e.outerHTML)""")
    assert nameless == []
    assert page.evaluate("[...document.images].every(image => image.hasAttribute('alt'))")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))


CONTRAST = """() => {
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
        v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = e => {
        for (; e; e = e.parentElement) {
            const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
            if (a > 0) return [r, g, b];
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll("p, label, h1, h2, h3, a, span, summary, button:enabled")]
        .filter(e => e.checkVisibility() && e.textContent.trim() && !e.matches(".skip")).map(e => {
            const [a, b] = [numbers(getComputedStyle(e).color), ground(e)].map(light);
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)];
        });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read(opened, scheme):
    page = opened(color_scheme=scheme)
    generate(page, "a tree", Steps="2")
    bright = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", bright)[0]) > 128) == (scheme == "light")
    page.mouse.move(0, 0)  # nothing is hovered over
    weak = [found for found in page.evaluate(CONTRAST) if found[0] < 4.5]  # WCAG AA
    assert weak == []


def test_with_a_key(opened, pipes):
    with serving(pipes["emoji"], api_keys=("secret",)) as address:
        page = opened(address, ready="This server wants an API key.")
        sync_api.expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        sync_api.expect(page.get_by_role("status")).to_have_text("This key is not this server's.")
        page.get_by_label("API key").fill("secret")
        page.get_by_role("button", name="Use it").click()
        sync_api.expect(page.get_by_label("API key")).to_be_hidden()
        generate(page, "a tree", Steps="3")
        page.context.close()  # so that no connection holds the server up


def test_places_in_the_queue(opened, pipes):
    """The engine is held up in its first step; who comes then waits."""
    held = threading.Event()
    with serving(pipes["emoji"], observer=lambda *_: held.wait(60)) as address:
        pages = [opened(address) for _ in range(3)]
        states = ["Drawing", "Waiting: place 1 in the queue", "Waiting: place 2 in the queue"]
        try:
            for page, state in zip(pages, states, strict=True):
                prompt(page).fill("a tree")
                page.get_by_label("Steps", exact=True).fill("3")
                page.get_by_role("button", name="Generate").click()
                sync_api.expect(page.get_by_role("status")).to_have_text(state)
        finally:
            held.set()
        for page in pages:
            done(page)
            page.context.close()
