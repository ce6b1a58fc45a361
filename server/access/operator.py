"""The operator's secret: a file in the data folder that only its owner can read.

It authorizes operator commands, and nothing else; API keys do not. The server creates it at its first start and rereads
it at every use, so a replaced secret is effective at once.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from pathlib import Path

log = logging.getLogger("pafu.access")

FILE = "admin.token"
LEAST = 16  # minimum number of characters


class Operator:
    """The operator's secret of one data folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def prepare(self) -> None:
        """Create the secret if there is none. If the folder is not writable, only operator commands are unavailable."""
        try:
            with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        except FileExistsError:
            return
        except OSError as error:
            log.warning("cannot write %s (%s): pafu drain will not work", self.path, error.strerror)

    def read(self) -> str | None:
        """The secret; None if it is missing or too short."""
        try:
            secret = self.path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return secret if len(secret) >= LEAST else None

    def known_by(self, given: str) -> bool:
        """Whether ``given`` is the secret, compared in constant time."""
        secret = self.read()
        return secret is not None and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())
