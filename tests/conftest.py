"""Import paths of the tests: this folder (`import tiny`; pytest adds it) and the root (`bench`)."""

import signal
import sys
from pathlib import Path

# Last, so that an installed pyengine comes before the source tree's.
sys.path.append(str(Path(__file__).resolve().parent.parent))

# A shell that starts a job in the background has it ignore Ctrl-C; its children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
