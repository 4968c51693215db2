"""Many machines: pictures for Ray Data's datasets, and an engine per replica behind Ray Serve.

rows = pyengine.ray.generate(ray.data.read_parquet("prompts"), model="emoji")
serve.run(pyengine.ray.deployment("emoji", "emoji-ar", replicas=2))

Needs the extra `ray`, which is imported by the functions that use it (docs/ray.md).
"""

from .data import generate
from .seeds import seed_of

__all__ = ["generate", "seed_of"]
