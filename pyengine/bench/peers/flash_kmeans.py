"""flash-kmeans' FlashAssign, the nearest of some centroids by one Triton kernel, on GPUs."""

from collections.abc import Callable
from typing import Any

from ...errors import UnavailableError


def load() -> Callable[..., Any]:
    """The function, to be called with what `arguments` returns: [1, rows] int32. It chooses its
    block sizes by the GPU's name and the shape.
    """
    try:
        import flash_kmeans.assign_euclid_triton as assigning  # type: ignore[import-not-found,unused-ignore]  # optional
    except ImportError as e:
        raise UnavailableError(
            f"flash-kmeans is not installed ({e}); pip install 'pyengine[bench-gpu]'"
        ) from e
    assign: Callable[..., Any] = assigning.euclid_assign_triton
    return assign


def arguments(inputs: dict[str, Any]) -> dict[str, Any]:
    """Its arguments for ours of vq_argmin: a batch of one, with the squared norms."""
    x, centroids = inputs["x"][None], inputs["codebook"][None]
    return {
        "x": x,
        "centroids": centroids,
        "x_sq": x.float().square().sum(-1),
        "c_sq": centroids.float().square().sum(-1),
    }
