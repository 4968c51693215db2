"""Networks that predict tokens, and their cache of keys and values."""
