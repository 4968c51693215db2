import multiprocessing

import pytest
import tiny

from pyengine.cli import main


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return str(
        tiny.write_sd1(tmp_path_factory.mktemp("models") / "tiny-sd", unet={"layers_per_block": 1})
    )


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """run("generate", "a cat"): (exit status, standard output, standard error), in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


#: What workers of benchmarks would import first of all, each for itself.
PRELOADED = (
    "torch", "pyengine.bench.run", "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl", "diffusers.models.autoencoders.vq_model",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama",
)  # fmt: skip


@pytest.fixture(scope="module")
def forked():
    """Workers come from one process that has imported what they need. (It starts once, for all
    modules.)
    """
    from pyengine.bench import worker

    multiprocessing.set_forkserver_preload(list(PRELOADED))
    before, worker.START = worker.START, "forkserver"
    yield
    worker.START = before


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder of benchmark's checkpoints that all tests of a module share."""
    return tmp_path_factory.mktemp("bench")
