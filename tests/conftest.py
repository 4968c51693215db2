"""Import paths of the tests: this folder (`import tiny`; pytest adds it) and the root (`bench`)."""

import sys
from pathlib import Path

# Last, so that an installed pyengine comes before the source tree's.
sys.path.append(str(Path(__file__).resolve().parent.parent))
