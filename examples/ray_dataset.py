"""Pictures for a dataset, on as many machines as the cluster has; run again, it goes on.

python examples/ray_dataset.py prompts.csv pictures        # columns id and prompt
RAY_ADDRESS=auto python examples/ray_dataset.py s3://bucket/prompts.csv s3://bucket/pictures
"""

import argparse

import ray

import pyengine


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("prompts")
    options.add_argument("folder")
    options.add_argument("--model", default="emoji")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--actors", type=int, default=1)
    given = options.parse_args()
    rows = pyengine.ray.generate(
        ray.data.read_csv(given.prompts), model=given.model, resume=given.folder,
        concurrency=given.actors, num_inference_steps=given.steps,
    )  # fmt: skip
    rows.write_parquet(given.folder)


if __name__ == "__main__":
    main()
