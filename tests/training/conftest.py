"""Synthetic pictures and a run small enough for seconds."""

import json

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 40),
}
STYLES = ("flat", "round")


def draw(colour, style, side=16):
    """A square or a disc of one colour on white."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = (np.abs(x) < 5) & (np.abs(y) < 5) if style == "flat" else x**2 + y**2 < 36
    image = np.full((side, side, 3), 255, np.uint8)
    image[inside] = colour
    return image


@pytest.fixture(scope="session")
def pictures():
    from pyengine.training import dataset

    images, captions = [], []
    for number, (name, colour) in enumerate(COLOURS.items()):
        for style in STYLES:
            images.append(draw(colour, style))
            caption = {
                "style": style,
                "label": f"{name} thing",
                "tags": [name],
                "hexcode": f"{number:04X}",
            }
            captions.append(json.dumps(caption))
    return dataset.from_arrays(np.stack(images), captions)


@pytest.fixture(scope="session")
def settings(pictures):
    from pyengine.training.autoencoder import AutoencoderSettings
    from pyengine.training.denoiser import DenoiserSettings
    from pyengine.training.emoji import EmojiSettings

    return EmojiSettings(
        autoencoder=AutoencoderSettings(
            channels=(8, 8, 8), groups=4, size=16, steps=4, batch=4, warmup=1, cooldown=2
        ),
        denoiser=DenoiserSettings(
            channels=(8, 16),
            groups=4,
            heads=2,
            size=4,
            context=16,
            text_layers=1,
            vocabulary=530,
            length=12,
            batch=4,
            warmup=2,
        ),
        labels=tuple(dict.fromkeys(pictures.labels)),
        styles=STYLES,
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory, pictures, settings):
    """A finished tiny run."""
    from pyengine.training import emoji

    folder = tmp_path_factory.mktemp("emoji") / "run"
    return emoji.train(
        data=pictures,
        out=folder,
        steps=6,
        settings=settings,
        sample_minutes=0,
        log_every=2,
        echo=lambda line: None,
    )
