"""A name for a checkpoint's weights that depends on nothing but the weights."""

import hashlib
from collections.abc import Mapping

from .source import MappedSource, TensorSource

FULL_BYTES = 64 << 20
SAMPLE = 4096
CHUNK = 1 << 20


def model_hash(sources: Mapping[str, TensorSource | MappedSource]) -> str:
    """SHA-256 (64 hexadecimal digits) of the models' tensors as they are stored.

    Covers, for every model by name and every tensor by name: both names, dtype, shape, and
    - where all tensors together take at most 64 MiB, all of their bytes;
    - else the first and the last 4,096 bytes of each tensor, so that it takes a second and not a
      minute. A change that leaves all of these alone is not seen.
    So it is the same for a file and its shards, and differs between float32 and float16. Configs,
    tokenizer and the files' metadata are not covered.
    """
    total = sum(source.nbytes() for source in sources.values())
    digest = hashlib.sha256(b"full" if total <= FULL_BYTES else b"sampled")
    for model in sorted(sources):
        source = sources[model]
        seen = set()
        for name in source:
            for file, stored in source.stored(name):
                if (file.path, stored) in seen:
                    continue
                seen.add((file.path, stored))
                entry = file.entries[stored]
                head = f"{model}\0{stored}\0{entry.dtype}\0{entry.shape}\0"
                digest.update(head.encode("utf-8", "surrogatepass"))
                for begin, end in _ranges(entry.begin, entry.end, total <= FULL_BYTES):
                    digest.update(file.read_bytes(begin, end))
    return digest.hexdigest()


def _ranges(begin: int, end: int, full: bool) -> list[tuple[int, int]]:
    if full:
        return [(at, min(at + CHUNK, end)) for at in range(begin, end, CHUNK)]
    if end - begin <= 2 * SAMPLE:
        return [(begin, end)]
    return [(begin, begin + SAMPLE), (end - SAMPLE, end)]
