"""Drawing tokens, one by one or in windows, from a model that has a cache of keys and values."""
