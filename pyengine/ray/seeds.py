"""The seed of a row, from its id."""

import hashlib
from typing import Any

import numpy as np

from ..errors import RequestError

#: Seeds are below this: what torch's generator for CPUs tells apart.
SEEDS = 1 << 32


def seed_of(id: Any) -> int:
    """The seed of the picture for a row with this id: below 2^32, the same for ever, everywhere.

    It is the first four bytes, least significant first, of the SHA-256 of the id: bytes as they
    are, text as UTF-8, a whole number as its decimal text. So 17 and "17", which a CSV file does
    not tell apart, have one seed. Raises RequestError for other ids.
    """
    if isinstance(id, np.generic):
        id = id.item()
    if isinstance(id, bool) or not isinstance(id, int | str | bytes):
        raise RequestError(
            f"id: expected a whole number, a text or bytes, given {type(id).__name__}"
        )
    if not isinstance(id, bytes):
        id = str(id).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(id).digest()[:4], "little")
