"""``python -m server.worker FD``: what the supervisor starts."""

import os
import sys

from server.worker.loop import main

status = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)  # torch's teardown can hang on a broken device
