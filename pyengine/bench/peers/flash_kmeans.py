"""flash-kmeans' FlashAssign, the nearest of some centroids by one Triton kernel, on GPUs."""

from collections.abc import Callable
from typing import Any

from ...errors import UnavailableError


def load() -> Callable[..., Any]:
    """Assigns by keyword, of what `arguments` makes: [1, rows] int32. Its own choice of blocks, by
    the GPU's name and the shape.
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
    """Of ours of vq_argmin, in a batch of one; it takes the squared norms beside them."""
    x, centroids = inputs["x"][None], inputs["codebook"][None]
    return {
        "x": x,
        "centroids": centroids,
        "x_sq": x.float().square().sum(-1),
        "c_sq": centroids.float().square().sum(-1),
    }
