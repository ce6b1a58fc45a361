"""A worker's connection to its front, in the same thread, for tests."""

from __future__ import annotations

from server.ipc import messages
from server.worker.loop import Worker

CACHE = messages.CacheChoice(policy="window", budget_latents=6, sink_latents=0, recent_latents=3)


class Line:
    """The channel's other end in the same thread, with an inbox and an outbox."""

    def __init__(self, delivers: bool = True) -> None:
        self.delivers = delivers
        self.inbox: list[messages.FrontMessage] = []
        self.sent: list[messages.Message] = []
        self.waits: list[float] = []

    def send(self, message: messages.Message) -> None:
        self.sent.append(message)
        if self.delivers and isinstance(message, messages.Fragment):
            self.inbox.append(messages.Delivered(session=message.session, index=message.index))

    def receive(self, wait: float) -> list[messages.FrontMessage]:
        self.waits.append(wait)
        received, self.inbox = self.inbox, []
        return received

    def of(self, session: str, kind: type) -> list:
        return [m for m in self.sent if isinstance(m, kind) and getattr(m, "session", "") == session]


def order(
    session: str, prompt: str = "a bar", seed: int = 1, lead: float = 1e9, pictures: int | None = None, **more: object
):
    fields = {"session": session, "prompt": prompt, "seed": seed, "lead_seconds": lead, "pictures": pictures}
    return messages.Open(cache=CACHE, **fields, **more)


def steps(worker: Worker, count: int) -> None:
    for _ in range(count):
        worker.step()


def film(line: Line, session: str) -> bytes:
    return b"".join(fragment.data for fragment in line.of(session, messages.Fragment))
