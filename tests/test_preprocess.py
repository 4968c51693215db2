"""Pictures for ControlNets: Canny's edges pixel by pixel, greys, tiles, negatives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyengine import preprocess
from pyengine.cli.values import CONTROL_KINDS
from pyengine.errors import RequestError


def pixels(height, width, seed, blocks=1):
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 256, (-(-height // blocks), -(-width // blocks), 3), dtype=np.uint8)
    return found.repeat(blocks, 0).repeat(blocks, 1)[:height, :width]


def slow_canny(x, low, high):
    """cv2.Canny pixel by pixel, as its documentation and source have it."""
    x, (height, width) = x.astype(int), x.shape[:2]

    def at(r, c):
        return x[min(max(r, 0), height - 1), min(max(c, 0), width - 1)]

    size, dx, dy = (np.zeros((height + 2, width + 2), int) for _ in range(3))
    for r in range(height):
        for c in range(width):
            right = at(r - 1, c + 1) + 2 * at(r, c + 1) + at(r + 1, c + 1)
            left = at(r - 1, c - 1) + 2 * at(r, c - 1) + at(r + 1, c - 1)
            lower = at(r + 1, c - 1) + 2 * at(r + 1, c) + at(r + 1, c + 1)
            upper = at(r - 1, c - 1) + 2 * at(r - 1, c) + at(r - 1, c + 1)
            sums = abs(right - left) + abs(lower - upper)
            best = int(sums.argmax())
            size[r + 1, c + 1] = sums[best]
            dx[r + 1, c + 1], dy[r + 1, c + 1] = (right - left)[best], (lower - upper)[best]
    weak, todo, edges = set(), [], set()
    for r in range(1, height + 1):
        for c in range(1, width + 1):
            m = size[r, c]
            a, b = abs(dx[r, c]), abs(dy[r, c]) * 32768
            if m <= low:
                continue
            if b < a * 13573:
                ridge = m > size[r, c - 1] and m >= size[r, c + 1]
            elif b > a * 13573 + a * 65536:
                ridge = m > size[r - 1, c] and m >= size[r + 1, c]
            else:
                s = -1 if (dx[r, c] < 0) != (dy[r, c] < 0) else 1
                ridge = m > size[r - 1, c - s] and m > size[r + 1, c + s]
            if ridge:
                weak.add((r, c))
                if m > high:
                    todo.append((r, c))
    while todo:
        r, c = todo.pop()
        if (r, c) in edges:
            continue
        edges.add((r, c))
        todo += [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (r + i, c + j) in weak]
    found = np.zeros((height, width), np.uint8)
    for r, c in edges:
        found[r - 1, c - 1] = 255
    return found


@settings(max_examples=30)
@given(
    height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99),
    blocks=st.sampled_from([1, 3, 5]),
    limits=st.sampled_from([(100, 200), (50, 80), (0, 0), (20, 700), (700, 900)]),
)  # fmt: skip
def test_canny(height, width, seed, blocks, limits):
    x = pixels(height, width, seed, blocks)
    got = np.asarray(preprocess.canny(x, *limits))
    assert (got == slow_canny(x, *limits)[..., None]).all()


def test_canny_is_opencvs():
    cv2 = pytest.importorskip(
        "cv2", reason="OpenCV is not installed: compared with a plain reading"
    )
    for seed in range(20):
        x = pixels(40, 33, seed, 1 + seed % 4)
        assert (np.asarray(preprocess.canny(x))[..., 0] == cv2.Canny(x, 100, 200)).all()


def test_limits_may_be_swapped():
    x = pixels(20, 20, 1, 4)
    edges = np.asarray(preprocess.canny(x, 50, 300))
    assert (np.asarray(preprocess.canny(x, 300, 50)) == edges).all()
    assert 0 < edges.mean() < 255


def test_the_others():
    image = Image.fromarray(pixels(24, 40, 3))
    assert (np.asarray(preprocess.invert(image)) == 255 - np.asarray(image)).all()
    grey = np.asarray(preprocess.gray(image))
    assert (grey == np.asarray(image.convert("L"))[..., None]).all()
    assert preprocess.tile(image).tobytes() == image.tobytes()
    blurred = preprocess.tile(image, 4)
    assert blurred.size == image.size
    assert np.asarray(blurred).std() < np.asarray(image).std() / 2
    white = Image.new("LA", (4, 4), (0, 0))  # transparent
    assert np.asarray(preprocess.gray(white)).min() == 255
    floats = np.asarray(image, dtype=np.float32) / 255
    assert preprocess.invert(floats).tobytes() == preprocess.invert(image).tobytes()


def test_kinds_by_name():
    assert tuple(preprocess.KINDS) == CONTROL_KINDS
    image = Image.fromarray(pixels(9, 9, 3))
    for kind, function in preprocess.KINDS.items():
        assert preprocess.prepare(image, kind).tobytes() == function(image).tobytes()
    with pytest.raises(RequestError, match=r"control_kind: expected one of canny.*mean canny"):
        preprocess.prepare(image, "cany")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: preprocess.canny(x, low="a"), "low: expected a number from 0 to 2040"),
        (lambda x: preprocess.canny(x, high=3000), "high: expected a number"),
        (lambda x: preprocess.tile(x, 0), "factor: expected a number from 1 to 64"),
        (lambda x: preprocess.gray([x, x]), "picture: expected one, given 2"),
        (lambda x: preprocess.gray("x"), "picture: expected a PIL picture"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(RequestError, match=text):
        call(pixels(4, 4, 0))
