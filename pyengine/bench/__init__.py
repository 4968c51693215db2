"""What `pyengine bench` runs: the engine and named peers in turn, and the machine's limits.

Needs no more than the engine itself; a peer that is not installed is named and left out. Nothing
but the command line, the tests and the suites in bench/ imports this package.
"""
