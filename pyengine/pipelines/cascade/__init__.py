"""Several pipelines as one: each stage's picture is the next one's."""
