"""What pictures and masks mean in every mode of PIL, every dtype, and with every transparency."""

import numpy as np
import pytest
import torch
from PIL import Image
from pixel_cases import (
    ALPHA,
    HEIGHT,
    LAYERS,
    NUMBERS,
    OPAQUE,
    PAINTED,
    RAMP,
    WANTED,
    WIDTH,
    as_mode,
    grey,
    keyed,
    layer,
    mask_of,
    unit_of,
)

from pyengine import images
from pyengine.errors import RequestError

# What is not expected to warn must not.
pytestmark = pytest.mark.filterwarnings("error")


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", OPAQUE + NUMBERS + ALPHA)
def test_white_is_painted_and_black_is_not(mode):
    assert torch.equal(mask_of(as_mode(grey(PAINTED), mode)), WANTED)


@pytest.mark.parametrize("mode", OPAQUE + NUMBERS + ALPHA)
def test_pictures_keep_their_brightness(mode):
    wanted = PAINTED if mode == "1" else RAMP
    found = unit_of(as_mode(grey(wanted), mode))
    assert found.shape == (1, 3, HEIGHT, WIDTH)
    assert (found * 255 - torch.from_numpy(wanted)).abs().max() <= (3 if mode == "LAB" else 0.01)


def test_every_mode_of_pil_is_tested():
    known = {*OPAQUE, *NUMBERS, *ALPHA}
    from PIL import ImageMode

    assert {ImageMode.getmode(m).mode for m in known} == known
    assert set(Image.MODES) <= known


# --- transparency ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_transparent_in_a_mask_is_kept(name):
    """White everywhere, and only alpha varies."""
    assert torch.equal(mask_of(LAYERS[name]), WANTED)


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_transparent_in_a_picture_is_white(name):
    assert unit_of(LAYERS[name]).min() == 1


@pytest.mark.parametrize("mode", ALPHA)
@pytest.mark.parametrize("colour", ["black", (255, 0, 0)])
def test_dark_layers(mode, colour):
    """Black is not painted, nor is what lies unseen; in a picture it is seen on white."""
    warned = []
    dark = layer(mode, colour)
    items = images.as_list(dark, "mask_image", True)
    assert not images.to_mask(items, HEIGHT, WIDTH, "mask_image", warned).any()
    assert "nothing of it is white" in warned[0]
    rgb = unit_of(dark)
    assert torch.equal(rgb[..., WIDTH // 2 :], torch.ones(1, 3, HEIGHT, WIDTH // 2))
    assert rgb[0, 1, :, : WIDTH // 2].max() < 0.4


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_mask_is_brightness_times_alpha(mode):
    for bright in (0, 100, 180, 200, 255):
        for alpha in (0, 100, 127, 129, 181, 255):
            item = layer(mode, (bright,) * 3, np.full((HEIGHT, WIDTH), alpha, np.uint8))
            items = images.as_list(item, "mask_image", True)
            found = images.to_mask(items, HEIGHT, WIDTH, "mask_image", [])
            if abs(bright * alpha / 255 - 127.5) > 2:
                assert bool(found.all()) == (bright * alpha / 255 > 127.5), (bright, alpha)


def test_a_keyed_colour_in_a_picture_is_white_and_others_stay():
    picture = keyed("RGB", (255, 0, 0), (0, 0, 255))
    rgb = images.to_rgb(picture, "image")
    assert rgb.getpixel((0, 0)) == (0, 0, 255)
    assert rgb.getpixel((WIDTH - 1, 0)) == (255, 255, 255)
    assert picture.info["transparency"] == (255, 0, 0)  # the caller's is as it was


@pytest.mark.parametrize("key", ["red", (1, 2), b"\1\2\3", 7.5, (-1, 0, 0), None, object()])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "I;16", "CMYK", "F"])
def test_odd_keys_are_refused_or_ignored(mode, key):
    picture = as_mode(grey(RAMP), mode)
    picture.info["transparency"] = key
    for convert in (images.to_rgb, images.to_grey):
        try:
            assert convert(picture, "image").size == (WIDTH, HEIGHT)
        except RequestError as e:
            assert "cannot be converted" in str(e)  # noqa: PT017
        except UserWarning:  # Pillow's, of a key that it does not understand
            pass


# --- which number is white ------------------------------------------------------------------------

WHOLE = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", ["bool", *WHOLE, *FLOATS, ">i4", ">u2", ">f4"])
def test_masks_of_zeros_and_ones(dtype):
    ones = (PAINTED > 0).astype(dtype)
    forms = [ones, ones[..., None], ones[None, ..., None], [ones, ones][:1]]
    if ">" not in dtype:
        forms += [torch.from_numpy(ones), torch.from_numpy(ones)[None]]
    for form in forms:
        assert torch.equal(mask_of(form), WANTED)


@pytest.mark.parametrize("dtype", [d for d in WHOLE if d != "int8"])
def test_masks_of_255(dtype):
    wide = PAINTED.astype(dtype)
    assert torch.equal(mask_of(wide), WANTED)
    assert torch.equal(mask_of(torch.from_numpy(wide)), WANTED)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32", "int64", "uint64"])
def test_16_bits(dtype):
    wide = PAINTED.astype(dtype) * 257
    assert torch.equal(mask_of(wide), WANTED)
    ramp = np.stack([RAMP.astype(dtype) * 257] * 3, axis=-1)
    assert (unit_of(ramp)[0, 0] * 255 - torch.from_numpy(RAMP)).abs().max() < 1e-4


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "RGBA", "I", "F", *NUMBERS])
def test_masks_of_zeros_and_ones_in_pil(mode):
    ones = (PAINTED > 0).astype(np.uint8)
    if mode in NUMBERS:
        order = ">u2" if mode == "I;16B" else "<u2"
        picture = Image.frombytes(mode, (WIDTH, HEIGHT), ones.astype(order).tobytes())
    else:
        picture = grey(ones).convert(mode)
        if mode in ("I", "F"):
            picture = grey(ones.astype(np.int32 if mode == "I" else np.float32))
    assert torch.equal(mask_of(picture), WANTED)
    assert np.array_equal(np.asarray(images.to_grey(picture, "mask")), PAINTED)


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("scale", [255, 65535])
def test_numbers_in_pil(mode, scale):
    dtype = np.int32 if mode == "I" else np.float32
    picture = grey((RAMP.astype(np.float64) / 255 * scale).round().astype(dtype))
    assert picture.mode == mode
    assert (unit_of(picture)[0, 0] * 255 - torch.from_numpy(RAMP)).abs().max() < 0.01
    assert torch.equal(mask_of(grey((PAINTED // 255).astype(dtype) * scale)), WANTED)


def test_floats_to_1_in_pil():
    picture = grey(RAMP.astype(np.float32) / 255)
    assert (unit_of(picture)[0, 0] * 255 - torch.from_numpy(RAMP)).abs().max() < 0.01


def test_pictures_of_booleans():
    picture = np.stack([PAINTED > 0] * 3, axis=-1)
    assert torch.equal(unit_of(picture)[:, :1], WANTED)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    assert torch.equal(unit_of(tensor)[:, :1], WANTED)


@pytest.mark.parametrize("dtype", WHOLE)
def test_pictures_of_zeros_and_ones_are_refused(dtype):
    picture = np.stack([PAINTED > 0] * 3, axis=-1).astype(dtype)
    for given in (picture, torch.from_numpy(picture).permute(2, 0, 1)):
        with pytest.raises(RequestError, match=rf"image: expected {dtype} .* multiply by 255"):
            unit_of(given)
    assert unit_of(picture * 0).max() == 0  # black is black


@pytest.mark.parametrize("form", ["batch", "list", "tensor"])
def test_the_largest_is_that_of_the_whole_argument(form):
    """A dark picture between others, or an empty mask, is of their scale."""
    dark = np.stack([PAINTED > 0] * 3, axis=-1).astype(np.uint8)
    both = np.stack([dark, dark * 255])
    given = {"batch": both, "list": [dark, dark * 255]}.get(form)
    given = torch.from_numpy(both).permute(0, 3, 1, 2) if given is None else given
    warned = []
    found = unit_of(given, warned)
    assert found[0].max() == pytest.approx(1 / 255)
    assert found[1].max() == 1
    assert "nearly black" in warned[0]
    masks = mask_of([dark[..., 0], dark[..., 0] * 255])
    assert not masks[0].any()
    assert torch.equal(masks[1:], WANTED)


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.full((8, 8, 3), 200.0, np.float32), "divide by 255"),
     (np.full((8, 8, 3), -0.5, np.float32), "x / 2"),
     (np.full((8, 8, 3), np.nan, np.float32), "in \\[0, 1\\]"),
     (np.full((8, 8, 3), -1, np.int32), "expected numbers from 0"),
     (np.full((8, 8, 3), 70000, np.int32), "65535"),
     (np.full((8, 8, 3), 1j), "array"),
     (torch.full((3, 8, 8), 1j), "real numbers"),
     (grey(np.full((8, 8), -1, np.int32)), "mode I"),
     (grey(np.full((8, 8), 1 << 20, np.int32)), "mode I"),
     (grey(np.full((8, 8), np.nan, np.float32)), "mode F"),
     (grey(np.full((8, 8), np.inf, np.float32)), "mode F")],
)  # fmt: skip
def test_numbers_that_mean_nothing(value, words):
    with pytest.raises(RequestError, match=f"^image: .*{words}"):
        unit_of(value)


@pytest.mark.parametrize(
    "dark",
    [
        grey(np.ones((8, 8), np.uint8)),
        grey(np.full((8, 8), 300, np.int32)),
        grey(np.full((8, 8), 1.5, np.float32)),
        np.full((8, 8, 3), 1 / 255, np.float32),
    ],
)
def test_nearly_black_pictures_are_warned_of(dark):
    warned = []
    assert unit_of(dark, warned).max() < 0.01
    assert "nearly black" in warned[0]
    with pytest.warns(UserWarning, match="nearly black"):
        unit_of(dark)


# --- warnings -------------------------------------------------------------------------------------


def test_masks_of_one_kind_are_warned_of():
    black, white = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    cases = {
        "mask_image: nothing of it is white": [black],
        "mask_image: all of it is white": [white],
        "mask_image (2 of 3): nothing": [white, black, PAINTED[:8, 4:12]],
        "mask_image (1, 2 of 3): all of it": [white, white, PAINTED[:8, 4:12]],
    }
    for words, masks in cases.items():
        warned = []
        images.to_mask(masks, 8, 8, "mask_image", warned)
        assert any(message.startswith(words) for message in warned), warned
    with pytest.warns(UserWarning, match="nothing of it is white"):
        images.to_mask([black], 8, 8, "mask_image")


# --- lists and batches ----------------------------------------------------------------------------


def test_lists_of_batches():
    rgb = torch.rand(3, 8, 8)
    for given in ([rgb[None]], [rgb[None], rgb[None]], [rgb, rgb[None].repeat(2, 1, 1, 1)]):
        items = images.as_list(given, "image")
        assert all(item.shape == (3, 8, 8) for item in items)
        assert len(items) == sum(len(g) if g.ndim == 4 else 1 for g in given)
    array = rgb.permute(1, 2, 0).numpy()
    assert [i.shape for i in images.as_list([array[None]] * 2, "image")] == [(8, 8, 3)] * 2
    latents = images.as_list([torch.rand(1, 4, 2, 2)], "image")
    assert images.is_latents(latents[0], 4)


@pytest.mark.parametrize("shape", [(1, 1, 8, 16), (1, 8, 16), (8, 16), (2, 1, 8, 16), (2, 8, 16)])
def test_shapes_of_masks(shape):
    mask = torch.from_numpy(PAINTED > 0).expand(shape)
    count = shape[0] if len(shape) > 2 else 1
    assert torch.equal(mask_of(mask), WANTED.expand(count, -1, -1, -1))
    assert torch.equal(mask_of([mask]), WANTED.expand(count, -1, -1, -1))
    array = mask.numpy()
    array = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    array = array[0][..., None] if shape == (1, 8, 16) else array
    assert torch.equal(mask_of(array), WANTED.expand(count, -1, -1, -1))
