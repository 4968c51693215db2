"""Text and noise to a picture, by a generator that was trained against a discriminator."""
