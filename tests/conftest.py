"""One thread a process in all tests: on shared cores a second one makes small models slower, not faster."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
