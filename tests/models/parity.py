"""Comparing our models with diffusers' and transformers' on the same random weights."""

import torch

#: Relative L2 that float32 must stay under. What is measured is about 1e-6.
LIMIT = 1e-5


def relative_l2(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert torch.isfinite(theirs).all()
    assert theirs.numel() == 1 or theirs.std() > 0.02, "the reference is degenerate"
    return float((ours - theirs).norm() / theirs.norm())


def load_pair(theirs, cls, folder, **kwargs):
    """(theirs, ours): `theirs` saved to `folder` by its own library and loaded by `cls`."""
    theirs.save_pretrained(folder, safe_serialization=True)
    return theirs, cls.from_pretrained(folder, **kwargs)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def idle_parameters(model, run) -> list[str]:
    """Names of the parameters that may be changed without changing `run()`'s tensors."""
    before = run()
    idle = []
    for name, p in model.named_parameters():
        kept = p.clone()
        p.add_(0.3 * noise(*p.shape, seed=1))
        if all(torch.equal(a, b) for a, b in zip(before, run(), strict=True)):
            idle.append(name)
        p.copy_(kept)
    return idle
