"""The same in-process server as in the server's own tests."""

from tests.server.conftest import decode, serve, server, viewer_of

__all__ = ["decode", "serve", "server", "viewer_of"]
