"""The same server in the test's loop as for the server's own tests."""

from tests.server.conftest import decode, serve, server, viewer_of

__all__ = ["decode", "serve", "server", "viewer_of"]
