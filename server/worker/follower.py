"""Another process of a device group: ``python -m server.worker.follower FD``, which the group's worker starts.

It does what the worker orders, and ends when the worker does.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from server.process import leave_signals_to_the_front

leave_signals_to_the_front()  # before anything slow is imported

from model.camera import CameraControl  # noqa: E402
from server.ipc.group import (  # noqa: E402
    LEAVE,
    Begin,
    BeginWith,
    Done,
    Forget,
    Link,
    LinkClosed,
    Load,
    Meet,
    Next,
    Order,
    Prompt,
    Recall,
    Restore,
    Snapshot,
    Steer,
)
from server.telemetry import logs  # noqa: E402
from server.worker.generator import ModelGenerator, StartError, load_generator  # noqa: E402
from server.worker.group import ChunkAbandoned, is_shared  # noqa: E402

log = logging.getLogger("pafu.worker")


class Follower:
    """The model and the streams of this process."""

    def __init__(self, link: Link, load: Load, generator: ModelGenerator) -> None:
        self._link, self._load, self._generator = link, load, generator
        self._streams: dict[int, Any] = {}

    def follow(self, order: Order) -> None:
        """Do as the worker does with this order."""
        generator, streams = self._generator, self._streams
        match order:
            case Meet():
                self._meet(order)
            case Begin():
                streams[order.stream] = generator.open(order.prompt, order.seed, order.cache)
            case Restore():
                streams[order.stream] = generator.restore(self._link.read(order.size))
            case BeginWith():
                generator.begin_with(streams[order.stream], order.image)
            case Recall():
                generator.recall(streams[order.stream], order.past)
            case Prompt():
                streams[order.stream].set_prompt(order.text)
            case Steer():
                streams[order.stream].set_camera(CameraControl(**msgspec.structs.asdict(order.camera)))
            case Next():
                streams[order.stream].next_latents(self._before_pass)
            case Snapshot():
                generator.snapshot(streams[order.stream])
            case Forget():
                for number in order.streams:
                    del streams[number]
                generator.release_memory()

    def free_bytes(self) -> int:
        return self._generator.free_bytes()

    def _meet(self, order: Meet) -> None:
        from model.group.ulysses import join

        load = self._load
        self._generator.join(
            join(load.rank, load.size, Path(order.place), self._generator.torch_device, order.patience)
        )

    def _before_pass(self) -> None:
        if self._link.read(1) == LEAVE:
            raise ChunkAbandoned


def follow_orders(link: Link) -> None:
    """Follow orders until the worker ends. Raises what the worker does not raise as well."""
    load = link.order()
    assert isinstance(load, Load)
    configure = msgspec.structs.replace(load.configure, device=load.device)
    logs.configure(configure.log_level, configure.log_format, process=f"worker, process {load.rank}")
    try:
        generator = load_generator(configure, whole=False)
    except StartError as error:
        link.send(Done(error="StartError", message=str(error)))
        return
    follower = Follower(link, load, generator)
    link.send(Done(digest=generator.digest, free_bytes=follower.free_bytes()))
    while True:
        order = link.order()
        try:
            follower.follow(order)
            done = Done(free_bytes=follower.free_bytes() if isinstance(order, Forget) else 0)
        except Exception as error:
            if not is_shared(error):
                raise
            done = Done(error=type(error).__name__, message=str(error))
        link.send(done)


def end_with_the_worker() -> None:
    """Wait until the worker's end of stdin is closed, however it ended; then exit at once."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> int:
    """Entry point."""
    faulthandler.enable()
    watch = threading.Thread(target=end_with_the_worker, daemon=True)
    watch.start()
    logs.configure("info", "text", process="worker")  # until the settings come
    try:
        follow_orders(Link(socket.socket(fileno=int(sys.argv[1]))))
    except LinkClosed:
        pass
    except Exception as error:
        log.exception("this process of the group failed: %s", error)
        return 1
    watch.join()  # its worker says why
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # torch's teardown can hang on a broken device
