"""What the package costs, beside what people use today: `python -m tests.benchmarks`.  None of it is a test.

`PYTHONPATH` goes before the working directory here, so that it decides which checkout of the package is measured.
"""

import os
import sys

sys.path[:0] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
