"""Classifiers of noised pictures."""
