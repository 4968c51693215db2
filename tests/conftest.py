"""Puts this folder on the import path (pytest does so for a conftest), so that tests `import tiny`."""
