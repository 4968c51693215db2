"""DeepFloyd IF: pixel diffusion from texts."""
