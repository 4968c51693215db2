"""pyengine.cuda without a GPU: what is copied, kept, forgotten and refused.

The recorder here runs the function anew where a CUDA graph would replay its kernels: like them, it
reads the recording's own tensors and writes the result in place.
"""

import gc
import weakref

import pytest
import torch

from pyengine import cuda, ops
from pyengine.errors import OutOfMemoryError, UnavailableError
from pyengine.ops._replay import unrecorded
from pyengine.pipelines.placing import find_device


class Recorder:
    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, function, changing, kept):
        self.recorded += 1
        with unrecorded():  # the CPU's recordings take what is kept for unchanged
            result = function(changing, kept)

        def replay():
            self.replayed += 1
            with unrecorded():
                again = function(changing, kept)
            one = isinstance(result, torch.Tensor)
            torch._foreach_copy_([result] if one else result, [again] if one else again)

        return replay, result


def weighted(changing, kept):
    x, y = changing
    return ops.geglu(x) + y * kept[0]


def tensors(rows):
    return [torch.randn(rows, 8), torch.randn(rows, 4)], [torch.randn(4)]


def test_a_recording_serves_calls_of_its_shapes():
    recorder = Recorder()
    graphs = cuda.Graphs(weighted, record=recorder)
    for rows in (3, 5, 3, 3):
        changing, kept = tensors(rows)
        assert torch.equal(graphs(changing, kept), weighted(changing, kept))
    assert (recorder.recorded, recorder.replayed) == (2, 4)


def test_where_something_else_is_computed_the_function_itself_runs():
    recorder = Recorder()
    graphs = cuda.Graphs(weighted, record=recorder)
    for rows in (3, 3):
        changing, kept = tensors(rows)
        with unrecorded():
            assert torch.equal(graphs(changing, kept), weighted(changing, kept))
    assert (recorder.recorded, recorder.replayed, len(graphs)) == (0, 0, 0)


def test_kept_tensors_are_copied_where_others_are_given():
    graphs = cuda.Graphs(weighted, record=Recorder())
    changing, kept = tensors(3)
    graphs(changing, kept)
    before = kept[0].clone()
    kept[0].zero_()  # a caller may not do this; it shows what is copied
    changing, others = tensors(3)
    assert torch.equal(graphs(changing, kept), weighted(changing, [before]))
    assert torch.equal(graphs(changing, others), weighted(changing, others))
    assert torch.equal(graphs(changing, kept), weighted(changing, kept))


def test_the_recording_used_longest_ago_goes_first():
    recorder = Recorder()
    graphs = cuda.Graphs(weighted, most=2, record=recorder)
    for rows in (1, 2, 1, 3, 1, 2):
        graphs(*tensors(rows))
    assert recorder.recorded == 4  # 1, 2, 3 and 2 again
    assert len(graphs) == 2
    graphs.clear()
    assert len(graphs) == 0


def test_another_backend_is_another_recording_and_replays_tell_their_kernels():
    recorder = Recorder()
    graphs = cuda.Graphs(weighted, record=recorder)
    changing, kept = tensors(2)
    for _ in range(2):
        with ops.kernels_used() as used:
            graphs(changing, kept)
        assert used.summary() == {"geglu": f"cpu-{ops.isa()}"}
        with ops.force("reference"), ops.kernels_used() as used:
            graphs(changing, kept)
        assert used.summary() == {"geglu": "reference"}
    assert recorder.recorded == 2


def test_out_of_memory_is_told_with_what_helps_and_holds_nothing():
    class Big:
        pass

    seen = []

    def call():
        big = Big()
        seen.append(weakref.ref(big))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    released = []
    with pytest.raises(OutOfMemoryError, match=r"^CUDA out of memory; smaller") as caught:
        cuda.within_memory(call, "smaller pictures would help", lambda: released.append(1))
    assert released == [1]
    assert isinstance(caught.value, MemoryError)
    assert caught.value.__context__ is None
    gc.collect()
    assert seen[0]() is None
    assert cuda.within_memory(lambda: 7, "nothing") == 7


def test_other_errors_that_tell_of_memory():
    for text in (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling",
        "Triton Error [CUDA]: out of memory",
    ):
        with pytest.raises(OutOfMemoryError, match="; smaller"):
            cuda.within_memory(lambda text=text: raises(RuntimeError(text)), "smaller")
    with pytest.raises(RuntimeError, match=r"^an illegal address$"):
        cuda.within_memory(lambda: raises(RuntimeError("an illegal address")), "smaller")


def raises(error):
    raise error


def test_tensors_of_inference_mode():
    graphs = cuda.Graphs(weighted, record=Recorder())
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            changing, kept = tensors(3)
            assert torch.equal(graphs(changing, kept), weighted(changing, kept))


def test_a_methods_owner_is_not_kept():
    def record(function, changing, kept):  # which, as CUDA's, keeps no function
        return (lambda: None), function(changing, kept)

    class Owner:
        def __init__(self):
            self.graphs = cuda.Graphs(self.run, record=record)

        def run(self, changing, kept):
            return weighted(changing, kept)

    owner = Owner()
    owner.graphs(*tensors(2))
    gone = weakref.ref(owner)
    del owner
    assert gone() is None


def test_a_gpu_that_is_too_old_is_refused(monkeypatch):
    for name, value in (
        ("is_available", True),
        ("device_count", 1),
        ("get_device_capability", (7, 5)),
        ("get_device_name", "Tesla T4"),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(UnavailableError, match=r"Tesla T4 of compute capability 7\.5; expected 8"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert find_device("auto") == find_device("cuda") == torch.device("cuda")
    with pytest.raises(UnavailableError, match="cuda:1 was asked for, but there are 1"):
        find_device("cuda:1")


def test_copies_on_the_cpu_are_none():
    x = torch.randn(3)
    assert cuda.to_device(x, torch.device("cpu")) is x
    cuda.Leash(torch.device("cpu")).step()
