"""The command ``pafu``, also ``python -m server.cli``."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Load the command line and run it. Ctrl-C while it loads, which takes a second, is one line too."""
    try:
        from server.cli.main import main as run
    except KeyboardInterrupt:
        print("pafu interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    run()


if __name__ == "__main__":
    main()
