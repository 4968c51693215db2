"""cache_interval, cache_branch_id: deep layers of the U-Net at every so many evaluations alone."""

import diffusers
import pytest
import tiny
import torch
from pairs import generators
from torch.utils.flop_counter import FlopCounterMode

import pyengine
from pyengine import ops
from pyengine.errors import RequestError
from pyengine.models import UNet2DConditionModel
from pyengine.models.unet import DeepFeatures, Residuals
from pyengine.ops._replay import unrecorded

PROMPTS = ["a red heart", "two cats"]
STEPS = 5
SD15 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
#: Skips of the tiny U-Net: two levels of one layer, the first convolution and a halving.
BRANCHES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("caching")
    return tiny.write_sd1(place / "sd", unet={"layers_per_block": 1})


@pytest.fixture(scope="module")
def pipe(folder):
    return pyengine.from_pretrained(folder, device="cpu")


def draw(pipe, **call):
    return pipe(
        **{
            "prompt": PROMPTS,
            "seed": [7, 8],
            "height": 64,
            "width": 64,
            "num_inference_steps": STEPS,
            "guidance_scale": 4.0,
            "output_type": "latent",
            "scheduler": "ddim",
            **call,
        }
    ).images


class Kept:
    """Gives a layer of diffusers' U-Net, in place of what lies below it, what lay there when it was
    last told to look: the layer reads this and a skip side by side.
    """

    def __init__(self, unet, branch):
        layers = [(block, i) for block in unet.up_blocks for i in range(len(block.resnets))]
        block, i = layers[len(layers) - 1 - branch]
        self.looks, self.last = True, None
        #: Channels of the skip: those of the layer on the way down.
        self.width = self.widths_of(unet)[branch]
        block.resnets[i].register_forward_pre_hook(self.replace)

    @staticmethod
    def widths_of(unet):
        widths = [unet.config.block_out_channels[0]]
        for k, block in enumerate(unet.down_blocks):
            count = len(block.resnets) + bool(block.downsamplers)
            widths += [unet.config.block_out_channels[k]] * count
        return widths

    def replace(self, layer, args):
        x, *rest = args
        below = x.shape[1] - self.width
        if self.looks:
            self.last = x[:, :below].clone()
            return None
        return (torch.cat([self.last, x[:, below:]], dim=1), *rest)


@torch.no_grad()
def loop(folder, interval, branch):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    text, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    side = 64 // pipe.vae_scale_factor
    x = torch.cat([torch.randn((1, 4, side, side), generator=g) for g in generators([7, 8])])
    scheduler.set_timesteps(STEPS)
    kept = Kept(pipe.unet, branch)
    for i, t in enumerate(scheduler.timesteps):
        kept.looks = i % interval == 0
        away, noise = pipe.unet(torch.cat([x, x]), t, torch.cat([negative, text])).sample.chunk(2)
        x = scheduler.step(away + 4.0 * (noise - away), t, x).prev_sample
    return x


@pytest.mark.parametrize(("interval", "branch"), [(2, 0), (3, 1), (2, 2), (100, 3)])
def test_pictures_are_a_loops(folder, pipe, interval, branch):
    want = loop(folder, interval, branch)
    got = draw(pipe, cache_interval=interval, cache_branch_id=branch)
    assert float((got - want).norm() / want.norm()) < 1e-4
    assert float((got - draw(pipe)).norm() / want.norm()) > 1e-3


def test_every_layer_of_the_network_is_told_apart(pipe):
    assert pipe.unet.branches == BRANCHES
    assert (
        len({draw(pipe, cache_interval=3, cache_branch_id=b).sum() for b in range(BRANCHES)}) == 4
    )


def test_one_is_none(pipe):
    assert torch.equal(draw(pipe, cache_interval=1, cache_branch_id=2), draw(pipe))


@pytest.fixture
def whole(pipe):
    """Rows of each evaluation that has come to the deepest layers. (Nothing is recorded then.)"""
    found = []
    hook = pipe.unet.mid_block.register_forward_pre_hook(lambda _, args: found.append(len(args[0])))
    yield found
    hook.remove()


@pytest.mark.parametrize("scheduler", ["ddim", "heun", "euler_ancestral"])
def test_which_evaluations_are_whole(pipe, whole, scheduler):
    draw(pipe, cache_interval=3, scheduler=scheduler)
    evaluations = 2 * STEPS - 1 if scheduler == "heun" else STEPS
    assert whole == [4] * len(range(0, evaluations, 3))


def test_where_guidance_begins_an_evaluation_is_whole(pipe, whole):
    """What was kept has no rows of the condition that comes; where guidance ends it has."""
    draw(pipe, cache_interval=5, guidance_start=0.4, guidance_end=0.8)
    assert whole == [2, 4]


def test_bits_alone_and_beside_others(pipe):
    """Jobs join one by one, with all phases, branches and without caching, and leave."""
    calls = [
        {
            "cache_interval": 1 + k % 3,
            "cache_branch_id": k // 3,
            "guidance_scale": 1.0 + k,
            "guidance_end": (1.0, 0.5)[k % 2],
            "num_inference_steps": 3 + k,
            "prompt": PROMPTS[k % 2],
            "seed": k,
            "height": 64,
            "width": 64,
            "output_type": "latent",
            "scheduler": ("ddim", "heun")[k % 2],
        }
        for k in range(6)
    ]
    wanted = [pipe(**call).images for call in calls]
    jobs = [pipe.prepare(pipe.request(**call))[0] for call in calls]
    tick = 0
    while active := [job for i, job in enumerate(jobs) if job.active and i <= tick]:
        pipe.step(active)
        tick += 1
    for job, want in zip(jobs, wanted, strict=True):
        assert torch.equal(pipe.finish(job).reshape(want.shape), want)


def test_pictures_of_one_call_in_other_orders(pipe):
    """A step takes the rows that it needs, whatever evaluation they are from."""
    want = draw(pipe, cache_interval=4)
    jobs = pipe.prepare(
        pipe.request(
            PROMPTS,
            seed=[7, 8],
            height=64,
            width=64,
            num_inference_steps=STEPS,
            guidance_scale=4.0,
            output_type="latent",
            scheduler="ddim",
            cache_interval=4,
        )
    )
    pipe.step(jobs)
    for order in ([1, 0], [1], [0], [0, 1], [1], [0], [1, 0]):
        pipe.step([jobs[k] for k in order])
    assert torch.equal(
        torch.cat([pipe.finish(job)[None] for job in jobs]).reshape(want.shape), want
    )


def test_what_a_callback_changes_is_not_kept(pipe, whole):
    """Other words than those that the deep layers were told of: the next evaluation is whole."""
    text = pipe.encode_prompt("a green house", num_images_per_prompt=2)[0]

    def change(pipe, i, t, given):
        return {"prompt_embeds": torch.cat([given["prompt_embeds"][:2], text])} if i == 1 else {}

    asked = {
        "callback_on_step_end": change,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    draw(pipe, cache_interval=4, **asked)
    assert len(whole) == 3  # evaluations 0, 2 and 4


def test_what_is_kept_outlives_the_memory_of_activations(pipe):
    deep, again = DeepFeatures(1), DeepFeatures(1)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    context = pipe.unet.encode_context(pipe.encode_prompt(PROMPTS)[0])
    times = pipe.unet.embed_timesteps([500.0])[0]
    want = pipe.unet.evaluate(x, times, context)
    assert torch.equal(pipe.unet.evaluate(x, times, context, deep=deep), want)
    assert deep.features is not None
    pipe.unet.evaluate(torch.randn_like(x), times, context, deep=again)
    assert torch.equal(pipe.unet.evaluate(x, times, context, deep=deep), want)
    assert not torch.equal(pipe.unet.evaluate(x, times, context, deep=again), want)


@torch.inference_mode()
def test_recorded_evaluations_have_the_same_bits(folder):
    """The second of a shape is noted and those after it are repeated: every branch, each apart."""
    unet = pyengine.from_pretrained(folder, device="cpu").unet
    own = torch.Generator().manual_seed(3)
    inputs = [torch.randn(2, 4, 8, 8, generator=own) for _ in range(4)]
    context = unet.encode_context(torch.randn(2, 7, unet.config.cross_attention_dim, generator=own))
    times = unet.embed_timesteps([900.0, 500.0, 100.0, 10.0])
    for branch in range(BRANCHES):
        for i, x in enumerate(inputs):
            plain, noted = DeepFeatures(branch), DeepFeatures(branch)
            found = [unet.evaluate(x, times[i], context, deep=noted)]
            found += [unet.evaluate(y, times[i], context, deep=noted) for y in inputs]
            with unrecorded():
                wanted = [unet.evaluate(x, times[i], context, deep=plain)]
                wanted += [unet.evaluate(y, times[i], context, deep=plain) for y in inputs]
            assert torch.equal(noted.features, plain.features)
            assert all(map(torch.equal, found, wanted))
    recorded = [r for r in unet.recordings._known.values() if r is not None]
    assert len(recorded) == 2 * BRANCHES
    assert all(r.complete for r in recorded)


def test_refusals(pipe):
    for call, text in (
        ({"cache_interval": 0}, "cache_interval: expected a whole number from 1 to 1000, given 0"),
        ({"cache_interval": 2, "cache_branch_id": 4},
         "cache_branch_id: expected a whole number from 0 to 3, given 4"),
        ({"cache_branch_id": -1}, "cache_branch_id: expected a whole number from 0"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=text):
            draw(pipe, **call)
    x, context = torch.zeros(1, 4, 8, 8), pipe.unet.encode_context(pipe.encode_prompt("x")[0])
    times = pipe.unet.embed_timesteps([500.0])[0]
    with pytest.raises(RequestError, match="deep: expected a branch from 0 to 3, got 4"):
        pipe.unet.evaluate(x, times, context, deep=DeepFeatures(4))
    mid = Residuals((), torch.zeros(1, 4, 4, 8))
    with pytest.raises(RequestError, match="deep: expected no additional residuals"):
        pipe.unet.evaluate(x, times, context, mid, DeepFeatures(0))


def operations(call):
    """Multiplications and additions of a call's products."""
    with torch.device("meta"), ops.force("reference"), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_what_the_outermost_layers_take_of_stable_diffusions_operations():
    """As docs/samplers.md has it."""
    unet = UNet2DConditionModel.from_config(SD15)
    x, text = torch.empty(2, 4, 64, 64, device="meta"), torch.empty(2, 77, 768, device="meta")
    context = unet.encode_context(text)
    times = unet.embed_timesteps(torch.empty(1, device="meta"))[0]
    whole = operations(lambda: unet.evaluate(x, times, context))
    assert whole == pytest.approx(1.59e12, rel=0.01)
    for branch, share in enumerate((0.08, 0.22, 0.38, 0.47)):
        deep = DeepFeatures(branch)
        unet.evaluate(x, times, context, deep=deep)
        outer = operations(lambda deep=deep: unet.evaluate(x, times, context, deep=deep))
        assert outer / whole == pytest.approx(share, abs=0.005)
