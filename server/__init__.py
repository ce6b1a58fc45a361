"""The service: HTTP and WebSocket front, sessions, scheduling, worker process, media, command line."""

__version__ = "0.1.0"
