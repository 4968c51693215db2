"""Models that ship and guide others, by name."""

import os
from typing import Any

from .loading import shipped_folder
from .shipped_names import GUIDES

#: What `clip_model=` and `classifier=` may name besides a folder.
CLIP, CLASSIFIER = GUIDES


def guide_place(value: Any) -> Any:
    """The folder of the guide of that name; anything else as it is, a folder of that name too."""
    if isinstance(value, str) and value in GUIDES and not os.path.exists(value):
        return str(shipped_folder(value))
    return value
