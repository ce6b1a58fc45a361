"""The operator's secret: a file in the data folder that only its owner can read.

Who can read it may do to this server what callers may not. API keys do not open those paths, and this secret opens no
others. It is made when the server starts, outlives it, and is read at every use, so a new one counts at once.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from pathlib import Path

log = logging.getLogger("pafu.access")

FILE = "admin.token"
LEAST = 16  # characters; a file with fewer opens nothing


class Operator:
    """The secret of the servers on one data folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def prepare(self) -> None:
        """Make the secret, if there is none. A folder that cannot be written costs the operator's commands only."""
        try:
            with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        except FileExistsError:
            return
        except OSError as error:
            log.warning("%s cannot be written (%s): nobody can drain a worker", self.path, error.strerror)

    def read(self) -> str | None:
        """The secret; None when there is none, or it is too short to be one."""
        try:
            secret = self.path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return secret if len(secret) >= LEAST else None

    def known_by(self, given: str) -> bool:
        """Whether this is the secret; takes as long for a wrong one."""
        secret = self.read()
        return secret is not None and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())
