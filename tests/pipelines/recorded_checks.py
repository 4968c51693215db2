"""What a recording may not do: read memory that is freed, or look at values on the device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyengine import ops


class Foreign(TorchDispatchMode):
    """Refuses tensors that a replay could not count on: what is neither a recording's, nor the
    model's, nor made within.
    """

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata: tensor for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                assert tensor.untyped_storage()._cdata in self.known, func
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self.known[tensor.untyped_storage()._cdata] = tensor
        return results


def own(recorder, model, held=lambda: ()):
    """A recorder that refuses tensors but the model's, what `held` gives and what it is given."""

    def record(function, changing, kept):
        place = held()

        def run(*given):
            # In torch, whose calls are seen; but for one that makes tensors of constants.
            strict = Foreign(*model.parameters(), *place, *changing, *kept)
            with ops.force("reference"), ops.force("cpu", "sample_token"), strict:
                return function(*given)

        return recorder(run, changing, kept)

    return record


class Looks(TorchDispatchMode):
    """Refuses what the host cannot know without waiting for a GPU, until it is over."""

    over = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert self.over or name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal"), (
            func
        )
        return func(*args, **(kwargs or {}))
