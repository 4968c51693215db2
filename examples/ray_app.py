"""The application of ray_serve.yaml: replicas of four cores, as many as there is work for."""

import pyengine

app = pyengine.ray.deployment("emoji", "emoji-ar", replicas=(1, 8), num_cpus=4, fronts=2)
