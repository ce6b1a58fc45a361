"""``python -m server.worker FD``, which the supervisor starts."""

import os
import sys

from server.process import leave_signals_to_the_front

leave_signals_to_the_front()  # before anything slow is imported

from server.worker.loop import main  # noqa: E402

status = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)  # torch's teardown can hang on a broken device
