"""Guidance: how a model's outputs under several conditions make one output."""

from .value import NEGATIVE, TEXT, Guidance, Term, classifier_free

__all__ = ["NEGATIVE", "TEXT", "Guidance", "Term", "classifier_free"]
