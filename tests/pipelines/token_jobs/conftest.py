"""Pipelines of token models, and what their calls give."""

import pytest
import tiny
import torch
from test_jacobi import write_drafts
from token_calls import WRITERS, calls

import pyengine


@pytest.fixture(scope="module", params=WRITERS)
def pipe(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    WRITERS[request.param](folder)
    if request.param == "drafts":
        noise = torch.randint(40, (7, 5, 5), generator=torch.Generator().manual_seed(1))
        write_drafts(folder, noise.short())
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    folder = tiny.write_picture_gpt(tmp_path_factory.mktemp("checkpoints") / "gpt")
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def alone(pipe):
    """Of each of `calls`, what the call gives."""
    return [pipe(**call) for call in calls(pipe)]
