"""Depth to image: pictures from a picture, a text and the picture's depth."""
