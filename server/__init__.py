"""The service: HTTP and WebSocket front, sessions, scheduling, worker process, media, command line."""

import sys

# checked first: on an older Python a later import would fail with an obscure SyntaxError
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"pafu: error: Pafu needs Python 3.11 or newer, this is {sys.version_info[0]}.{sys.version_info[1]}")

__version__ = "0.1.0"
