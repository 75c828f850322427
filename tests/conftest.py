"""No test is about time: a slow machine is no failure. And all of them, with the processes that they start, compute on one
thread, so that equal work gives equal bits, and show no progress bars, so that what a command prints is what it says.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # before torch and tqdm are loaded
os.environ["RAY_worker_niceness"] = "0"  # its workers would else give way to everything, and wait for minutes

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
