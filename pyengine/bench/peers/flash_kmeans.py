"""flash-kmeans' FlashAssign, the nearest of some centroids by one Triton kernel, on GPUs."""

from collections.abc import Callable
from typing import Any

from ...errors import UnavailableError


def load() -> Callable[..., Any]:
    """Assigns by keyword, of what `arguments` makes: [1, rows] int32. Its own choice of blocks, by
    the GPU's name and the shape.
    """
    try:
        from flash_kmeans.assign_euclid_triton import euclid_assign_triton
    except ImportError as e:
        raise UnavailableError(
            f"flash-kmeans is not installed ({e}); pip install 'pyengine[bench-gpu]'"
        ) from e
    return euclid_assign_triton


def arguments(inputs: dict[str, Any]) -> dict[str, Any]:
    """Of ours of vq_argmin, in a batch of one; it takes the squared norms beside them."""
    x, centroids = inputs["x"][None], inputs["codebook"][None]
    return {
        "x": x,
        "centroids": centroids,
        "x_sq": x.float().square().sum(-1),
        "c_sq": centroids.float().square().sum(-1),
    }
