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
