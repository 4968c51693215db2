"""Enlarging pictures: files of all names, tiles, `upscaler=` in calls, the command line."""

import json

import generators
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import CancelledError, CheckpointError, NotFiniteError, RequestError
from pyengine.pipelines.upscale.pipeline import UpscalePipeline
from pyengine.pipelines.upscale.tiles import Tile, tiles

WRITERS = {"rrdb": generators.write_rrdb, "compact": generators.write_compact}


def picture(height, width, seed=0):
    """Smooth colours with noise, as PIL."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x / width, y / height, (x + y) / (height + width)], axis=-1)
    noise = np.random.default_rng(seed).random((height, width, 3))
    return Image.fromarray(((0.8 * base + 0.2 * noise) * 255).astype(np.uint8))


@pytest.fixture(scope="module", params=WRITERS)
def pipe(request, tmp_path_factory):
    return pyengine.from_pretrained(
        WRITERS[request.param](tmp_path_factory.mktemp("upscale") / "m"), device="cpu"
    )


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["basicsr", "new", "old"])
@pytest.mark.parametrize("sizes", [{}, {"scale": 2, "ups": 1}, {"scale": 2}])
def test_files_of_all_names(kind, sizes, tmp_path):
    folder = pyengine.from_pretrained(generators.write_rrdb(tmp_path / "m", **sizes), device="cpu")
    file = generators.write_rrdb(tmp_path / "esrgan.safetensors", kind=kind, **sizes)
    pipe = pyengine.from_pretrained(file, device="cpu")
    assert type(pipe) is UpscalePipeline
    assert pipe.model.config == folder.model.config
    image = picture(7, 6)
    want = folder(image, output_type="pt").images
    assert pipe(image, output_type="pt").images.equal(want)
    pipe.save_pretrained(tmp_path / "copy")
    again = pyengine.from_pretrained(tmp_path / "copy", device="cpu")
    assert again(image, output_type="pt").images.equal(want)
    unit = torch.from_numpy(np.asarray(image) / 255).permute(2, 0, 1)[None]
    if pipe.model.multiple == 1:
        plain = generators.make_rrdb(**sizes).double()(unit.double()).clamp(0, 1)
        assert float((want.double() - plain).abs().max()) < 1e-5


def test_a_compact_file(tmp_path):
    file = generators.write_compact(tmp_path / "general.safetensors", scale=2)
    pipe = pyengine.from_pretrained(file, device="cpu")
    assert (pipe.scale, pipe.model.config.num_conv, pipe.model.config.num_feat) == (2, 3, 10)
    with pytest.raises(CheckpointError, match=r"a SRVGGNetCompact, which .* cannot draw with"):
        pyengine.StableDiffusionPipeline.from_pretrained(file)


# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "side", "overlap", "multiple"),
    [(10, 7, 4, 2, 1), (9, 9, 100, 3, 1), (5, 21, 6, 0, 4), (513, 512, None, 32, 1),
     (8, 8, 1, 1, 2)],
)  # fmt: skip
def test_tiles_cover_a_picture_once(height, width, side, overlap, multiple):
    cover = np.zeros((height, width), int)
    for tile in tiles(height, width, side, overlap, multiple):
        for span, size in zip(tile, (height, width), strict=True):
            assert 0 <= span.read_begin <= span.begin < span.end <= span.read_end <= size
            assert span.read_begin % multiple == 0
            assert span.begin % multiple == 0
            assert span.begin - span.read_begin == min(
                span.begin, -(-overlap // multiple) * multiple
            )
        (top, bottom, *_), (left, right, *_) = tile
        cover[top:bottom, left:right] += 1
    assert (cover == 1).all()
    assert len(tiles(512, 512, None, 32, 1)) == 1
    assert len(tiles(512, 513, None, 32, 1)) == 4


@pytest.mark.parametrize("tile", [5, 8, 17])
def test_tiles_that_read_all_that_matters_change_rounding_alone(pipe, tile):
    image = picture(19, 23)
    whole = pipe(image, output_type="pt").images
    got = pipe(image, tile=tile, overlap=pipe.model.reach, output_type="pt")
    assert got.report.steps == len(tiles(19, 23, tile, 0, 1)) > 1
    assert float((got.images - whole).abs().max()) < 1e-5
    assert got.images.equal(
        pipe(image, tile=tile, overlap=pipe.model.reach, output_type="pt").images
    )
    seams = pipe(image, tile=tile, overlap=0, output_type="pt").images
    assert float((seams - whole).abs().max()) > 1e-3, "the overlap does something"


# --- the pipeline ---------------------------------------------------------------------------------


def test_pictures_of_any_size_and_type(pipe):
    images = [picture(6, 9), picture(11, 4, seed=1)]
    made = pipe(images).images
    assert [m.size for m in made] == [(9 * 4, 6 * 4), (4 * 4, 11 * 4)]
    for image, one in zip(images, made, strict=True):
        assert np.array_equal(np.asarray(pipe(image).images[0]), np.asarray(one))
    array = np.stack([np.asarray(picture(6, 9, s)) for s in range(2)])
    for output_type in ("np", "pt"):
        got = pipe(array, output_type=output_type).images
        assert got.shape == ((2, 24, 36, 3) if output_type == "np" else (2, 3, 24, 36))
    assert np.array_equal(
        (got.permute(0, 2, 3, 1).numpy() * 255).round()[0], np.asarray(pipe(images[0]).images[0])
    )


def test_same_bits_in_jobs_of_several_calls_and_on_any_threads(pipe, use_threads):
    images = [picture(10, 10, s) for s in range(3)]
    call = {"tile": 6, "output_type": "pt"}
    use_threads(1)
    want = pipe(images, **call).images
    use_threads(3)
    jobs = pipe.prepare(pipe.request(images[:2], **call)) + pipe.prepare(
        pipe.request(images[2], **call)
    )
    assert [len(job.tiles) for job in jobs] == [4, 4, 4]
    pipe.step(jobs[1:2])
    while any(job.active for job in jobs):
        pipe.step([job for job in jobs[::-1] if job.active])
    for job, row in zip(jobs, want, strict=True):
        assert torch.equal(pipe.finish(job), row)


def test_stopping_and_watching(pipe):
    image, seen = picture(10, 10), []

    def look(pipe, step, timestep, tensors):
        seen.append(tensors["images"].clone())
        if step == 1:
            pipe.interrupt()

    result = pipe(image, tile=5, output_type="pt", callback_on_step_end=look)
    assert result.report.interrupted
    assert len(seen) == 2
    assert (result.images[0, :, 20:] == 0.5).all(), "tiles that were not made are grey"
    assert not (result.images[0, :, :20] == 0.5).all()
    steps = list(pipe.steps(image, tile=5, output_type="pt"))
    assert len(steps) == 4
    assert torch.equal(steps[1].latents, seen[1])
    run = pyengine.pipelines.Run()
    run.interrupt()
    with pytest.raises(CancelledError):
        pipe(image, run=run)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"image": None}, "image: expected a picture or several, given none"),
        ({"image": "a.png"}, "image: expected a PIL picture"),
        ({"image": picture(3, 3), "tile": 0}, "tile: expected a whole number from 1"),
        ({"image": picture(3, 3), "overlap": -1}, "overlap: expected a whole number from 0"),
        ({"image": picture(3, 3), "output_type": "latent"}, "output_type: expected one of pil,"),
        ({"image": picture(3, 3), "prompt": "a cat"}, "prompt: this model has no such argument"),
        ({"image": [picture(3, 3), picture(3, 4)], "output_type": "pt"}, "pictures of one size"),
        ({"image": picture(1, 8193)}, "4 times as high and wide, expected at most 67108864 pixels"
         " together and sides up to 32768, given 131088 pixels, the first picture's 4x32772"),
        ({"image": [picture(1100, 2000)] * 2}, "given 70400000 pixels"),
    ],
)  # fmt: skip
def test_wrong_arguments(pipe, call, text):
    with pytest.raises(RequestError, match=text):
        pipe(**call)


def test_what_is_not_finite_is_said(tmp_path):
    pipe = pyengine.from_pretrained(generators.write_compact(tmp_path / "m"), device="cpu")
    pipe.model.body[1].weight.fill_(float("nan"))
    with pytest.raises(
        NotFiniteError, match=r"upscaler: expected finite numbers, found NaN in pict"
    ):
        pipe(picture(4, 4))


# --- in other pipelines' calls --------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "image_gpt", "dcgan"])
def test_upscaler_in_a_call(family, tmp_path):
    write, call = {
        "sd1": (lambda place: tiny.write_sd1(place, unet={"layers_per_block": 1}),
                {"prompt": "a cat", "num_inference_steps": 1, "height": 16,
                                 "width": 24}),
        "image_gpt": (lambda place: tiny.write_image_gpt(place), {"decoding": "sequential"}),
        "dcgan": (generators.write_dcgan, {}),
    }[family]  # fmt: skip
    pipe = pyengine.from_pretrained(write(tmp_path / "m"), device="cpu")
    file = generators.write_compact(tmp_path / "x.safetensors")
    upscaler = pyengine.from_pretrained(file, device="cpu")
    call = {**call, "seed": 3, "num_images_per_prompt": 2}
    for output_type in ("pil", "np", "pt"):
        plain = pipe(**call, output_type=output_type).images
        result = pipe(**call, output_type=output_type, upscaler=upscaler)
        want = upscaler(plain, output_type=output_type).images
        assert np.array_equal(np.stack(result.images), np.stack(want))
        assert result.report.seconds["upscale"] > 0
    by_path = pipe(**call, output_type="pt", upscaler=str(file)).images
    assert by_path.equal(result.images)
    jobs = pipe.prepare(pipe.request(**call, output_type="pt", upscaler=upscaler))
    while any(job.active for job in jobs):
        pipe.step(jobs)
    assert all(torch.equal(pipe.finish(job), row) for job, row in zip(jobs, by_path, strict=True))
    steps = pipe.steps(**call, output_type="pt", upscaler=file)
    for _ in steps:
        pass
    assert steps.output.images.equal(by_path)
    for wrong, text in (
        ({"upscaler": 4}, "upscaler: expected a file, a folder or an UpscalePipeline, given 4"),
        ({"upscaler": upscaler, "output_type": "latent"}, "upscaler: expected None for output_t"),
    ):
        with pytest.raises(RequestError, match=text):
            pipe(**{**call, **wrong})
    with pytest.raises(CheckpointError, match="which UpscalePipeline cannot draw with"):
        pipe(**call, upscaler=tmp_path / "m")
    if family == "sd1":
        with pytest.raises(RequestError, match="upscaler: image: 4 times as high and wide, expect"):
            pipe(**{**call, "height": 4096, "width": 2048}, upscaler=upscaler)


# --- the command line -----------------------------------------------------------------------------


def test_the_command_line(tmp_path, capsys):
    file = generators.write_rrdb(tmp_path / "x4.safetensors", kind="old")
    assert main(["info", str(file)]) == 0
    out = capsys.readouterr().out
    assert "RRDBNet" in out
    assert "scale 4, num_feat 12, num_block 2, num_grow_ch 5, num_upsample 2" in out
    image = picture(9, 6)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.png")
    want = pyengine.from_pretrained(file, device="cpu")(image).images[0]
    options = ["-m", str(file), "--device", "cpu"]
    paths = [str(tmp_path / n) for n in ("a.png", "b.png")]
    assert main(["upscale", *paths, *options, "-o", f"{tmp_path}/out/"]) == 0
    said = capsys.readouterr().out
    assert "6x9 to 24x36 in 1 tile," in said
    for name in ("a-large.png", "b-large.png"):
        with Image.open(tmp_path / "out" / name) as made:
            assert np.array_equal(np.asarray(made), np.asarray(want))
    one = str(tmp_path / "one.png")
    assert main(["upscale", paths[0], *options, "-o", one, "--tile", "4", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["files"] == [one]
    assert answer["report"]["steps"] == 6
    assert metadata.A1111_CHUNK not in Image.open(one).info
    assert main(["upscale", *paths, *options, "-o", one]) == 2
    assert "output: expected a folder for 2 pictures" in capsys.readouterr().err
    assert main(["upscale", str(tmp_path / "none.png"), *options]) == 2
    assert "no such file" in capsys.readouterr().err
    folder = generators.write_dcgan(tmp_path / "gan")
    assert main(["upscale", paths[0], "-m", str(folder)]) == 2
    assert "which UpscalePipeline cannot draw with" in capsys.readouterr().err


def test_tile_is_a_plain_record():
    tile = tiles(4, 4, 2, 1, 1)[3]
    assert isinstance(tile, Tile)
    assert tile.rows == (2, 4, 1, 4)


def test_generate_enlarges_and_repeats(tmp_path, capsys):
    folder = str(generators.write_dcgan(tmp_path / "gan"))
    file = str(generators.write_compact(tmp_path / "x4.safetensors"))
    other = str(generators.write_compact(tmp_path / "x2.safetensors", scale=2))
    one, again = str(tmp_path / "one.png"), str(tmp_path / "again.png")
    options = ["generate", "-m", folder, "--device", "cpu"]
    assert main([*options, "--seed", "4", "--upscaler", file, "-o", one]) == 0
    with Image.open(one) as made:
        assert made.size == (128, 128)
    saved = metadata.read(one)
    assert (saved.height, saved.upscaler) == (32, pyengine.weights.resolve(file).model_hash)
    assert main([*options, "--from", one, "-o", again]) == 2
    assert "from: the picture was enlarged by an upscaler: expected it as --upscaler" in (
        capsys.readouterr().err
    )
    assert main([*options, "--from", one, "--upscaler", file, "-o", again]) == 0
    with open(one, "rb") as first, open(again, "rb") as second:
        assert first.read() == second.read()
    capsys.readouterr()
    assert main([*options, "--from", one, "--upscaler", other, "-o", again]) == 0
    assert "upscaler: not the one that was used before" in capsys.readouterr().err
