"""pytest puts the folder of a conftest on the import path: tests say `import tiny`."""
