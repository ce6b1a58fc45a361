"""``python -m server.cli``, the same as ``pafu``."""

from server.cli.main import main

main()
