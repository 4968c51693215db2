"""One prompt drawn by every family that ships, side by side: `pyengine compare`."""
