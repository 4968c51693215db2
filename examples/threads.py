"""One engine, callers in many threads: their pictures share the model's evaluations.

python examples/threads.py folder
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyengine

PROMPTS = ("a red heart", "a rocket", "a tree", "a fish")


def main(folder: str) -> None:
    with pyengine.Engine("emoji", max_waiting=len(PROMPTS)) as engine:

        def draw(seed: int) -> None:
            job = engine.submit(prompt=PROMPTS[seed], seed=seed, num_inference_steps=4)
            job.result().images[0].save(Path(folder) / f"{seed}.png")

        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            list(pool.map(draw, range(len(PROMPTS))))


if __name__ == "__main__":
    main(*sys.argv[1:])
