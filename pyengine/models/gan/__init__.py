"""Generators that make a picture in one pass, of adversarial training."""
