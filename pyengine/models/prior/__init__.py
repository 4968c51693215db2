"""Priors: from a text's embedding to a picture's."""
