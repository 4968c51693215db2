"""Slots of one cache of keys and values, which jobs take and give back as they come and go."""

import threading
import weakref
from collections import deque
from collections.abc import Callable

import torch

from ..models.tokens.kv_cache import KVCache
from ..models.tokens.slot_memory import reserves

#: Slots that the first cache of a CPU has room for: address space, which is not memory yet.
FIRST = 64
#: The cache has room for a multiple of so many tokens.
ROOM = 64


class Lease:
    """Slots of a pool that somebody holds, until `end` or until the lease is collected.

    tokens: how many of each slot's are in use, as the holder says: they are copied to a larger
    cache. most: how many there may be.
    """

    def __init__(self, pool: "SlotPool", slots: tuple[int, ...], most: int):
        self.slots, self.tokens, self.most, self._pool = slots, 0, most, pool

    def end(self) -> None:
        """Gives the slots back; again, it does nothing."""
        slots, self.slots = self.slots, ()
        if slots:
            self._pool._give_back(slots)

    __del__ = end


class SlotPool:
    """A cache with room for more sequences than there are; it belongs to a model, as its arena
    does, and lives as long.

    A slot that is taken or given back leaves the others where they are. Where there is no room for
    one more, or for a longer one, the cache is made twice as large, and what is held is copied
    then. On a CPU a slot's memory goes back to the system when the slot is given back; on a GPU the
    cache stays, since recordings read it.

    cache: of all slots; None until one is taken, and after `clear`.
    """

    def __init__(self, make: Callable[[int, int], KVCache], limit: int, device: torch.device):
        """make(slots, most): an empty cache. limit: tokens that a sequence may have at most."""
        self.cache: KVCache | None = None
        self._make, self._limit = make, limit
        self._least = FIRST if reserves(device) else 1
        self._free: list[int] = []  # the last is taken first
        #: By slot. Weak: a lease that nobody has gives its slots back.
        self._held: dict[int, weakref.ref[Lease]] = {}
        self._returned: deque[tuple[int, ...]] = deque()
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Slots that are taken."""
        self._drain()
        return len(self._held)

    @property
    def promised(self) -> int:
        """Tokens that the slots that are taken may come to."""
        self._drain()
        leases = [held() for held in self._held.values()]
        return sum(lease.most for lease in leases if lease is not None)

    def take(self, leases: int, count: int, most: int) -> list[Lease]:
        """So many leases of `count` slots, each for a sequence of at most `most` tokens, with
        nothing in them. Raises MemoryError.
        """
        self._drain()
        with self._lock:
            _, room = self._room()
            if self.cache is None or most > room or leases * count > len(self._free):
                self._grow(len(self._held) + leases * count, max(most, room))
            taken = []
            for _ in range(leases):
                slots = tuple(self._free.pop() for _ in range(count))
                taken.append(Lease(self, slots, most))
                self._held.update(dict.fromkeys(slots, weakref.ref(taken[-1])))
        return taken

    def spare(self) -> list[int]:
        """Slots that nobody holds; what is written there is lost."""
        self._drain()
        return list(self._free)

    def clear(self) -> None:
        """Frees the cache, where nobody holds a slot."""
        self._drain()
        with self._lock:
            if not self._held:
                self.cache, self._free = None, []

    def _room(self) -> tuple[int, int]:
        """(slots, tokens of each) of the cache."""
        if self.cache is None:
            return 0, 0
        slots, _, _, most, _ = self.cache.memory.tensor.shape
        return slots, most

    def _grow(self, count: int, most: int) -> None:
        """Makes a cache for `count` slots of `most` tokens or more; what is held stays in its
        slots.
        """
        slots, room = self._room()
        if count > slots:
            slots = max(2 * slots, self._least, 1 << (count - 1).bit_length())
        if most > room:
            room = min(self._limit, max(2 * room, -(-most // ROOM) * ROOM))
        try:
            new = self._make(slots, room)
        except MemoryError:  # a process that may not have so much address space
            new = self._make(count, most)
        if self.cache is not None:
            for slot, held in self._held.items():
                lease = held()
                known = 0 if lease is None else lease.tokens
                new.memory.tensor[slot, :, :, :known] = self.cache.memory.tensor[slot, :, :, :known]
        self.cache = new
        self._free = [i for i in range(len(new.memory.tensor) - 1, -1, -1) if i not in self._held]

    def _give_back(self, slots: tuple[int, ...]) -> None:
        """From any thread, also from the collector's, within any call."""
        self._returned.append(slots)
        self._drain()

    def _drain(self) -> None:
        # The collector may run this within any of the above, in the thread that has the lock: then
        # the next who comes drains.
        while self._returned and self._lock.acquire(blocking=False):
            try:
                for slot in self._returned.popleft() if self._returned else ():
                    del self._held[slot]
                    self._free.append(slot)
                    if self.cache is not None:
                        self.cache.memory.forget(slot)
            finally:
                self._lock.release()
