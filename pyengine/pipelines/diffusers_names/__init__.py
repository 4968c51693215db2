"""diffusers' names around the pipelines: loading, classes, schedulers, switches, saving.

What means something here does it, what costs or changes nothing is accepted, and the rest is
refused in a sentence that says where to go (docs/from-diffusers.md has the table).
"""
