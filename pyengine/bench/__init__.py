"""What `pyengine bench` runs: ours against named peers, in turn, beside the machine's limits.

Needs no more than the engine itself; a peer that is not installed is named and left out. Nothing
but the command line, the tests and the suites in bench/ imports this package.
"""
