"""Ray, imported where it is used, or what to install."""

import importlib
from typing import Any

from ..errors import UnavailableError


def need(module: str) -> Any:
    """`ray`, or a module of it; UnavailableError where it, or a package of its own, is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise UnavailableError(
            f"pyengine.ray needs the package {e.name}: pip install 'pyengine[ray]'"
        ) from e
