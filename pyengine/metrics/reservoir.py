"""A bounded sample of a stream of rows."""

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from ..errors import RequestError


class Reservoir:
    """All rows up to `capacity`; of more, those whose bytes have the smallest hashes.

    Which rows stay depends on the rows alone, neither on their order nor on the machine that saw
    them: the sample of a whole is that of its parts' samples. Rows stay in the order they came in.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.seen = 0
        self._rows: list[Tensor] = []
        self._keys: list[np.ndarray] = []
        self._held = 0

    def update(self, rows: Tensor) -> None:
        rows = rows.float().contiguous()
        if self._rows and rows.shape[1] != self._rows[0].shape[1]:
            raise RequestError(
                f"features: expected {self._rows[0].shape[1]} a picture as before,"
                f" given {rows.shape[1]}"
            )
        self.seen += len(rows)
        self._take(rows, np.array([_key(row) for row in rows.numpy()], dtype=np.uint64))

    def merge(self, other: "Reservoir") -> None:
        """Takes in another's sample."""
        self.seen += other.seen
        if other._held:
            self._take(other.rows(), np.concatenate(other._keys))

    def _take(self, rows: Tensor, keys: np.ndarray) -> None:
        self._rows.append(rows)
        self._keys.append(keys)
        self._held += len(rows)
        if self._held >= 2 * self.capacity:
            self._thin()

    def _thin(self) -> None:
        rows, keys = torch.cat(self._rows), np.concatenate(self._keys)
        if len(rows) > self.capacity:
            kept = np.sort(np.argsort(keys, kind="stable")[: self.capacity])
            rows, keys = rows[torch.from_numpy(kept)], keys[kept]
        self._rows, self._keys, self._held = [rows], [keys], len(rows)

    def rows(self) -> Tensor:
        """float32 [N, D], N <= capacity."""
        if not self._held:
            return torch.empty(0, 0)
        self._thin()
        return self._rows[0]


def _key(row: np.ndarray) -> int:
    return int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "little")
