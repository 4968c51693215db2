import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tensors here are tiny; a thread pool only makes them wait, badly so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
