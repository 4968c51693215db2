"""Upscalers: ESRGAN and its compact form."""
