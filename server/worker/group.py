"""One worker on several devices: the worker's own process has the first, and a child process each of the others.

The worker orders (``server.ipc.group``), and all processes do the same at the same time, each with its share of the
tokens and of the cache (``model.group.ulysses``). The first also encodes prompts, decodes pictures and talks with the
front. If a process fails alone, all end, as a worker does whose device fails.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from model.camera import CameraControl
from model.parts import NoEncoder
from model.stream.chunk_stats import KeptTokens
from server.ipc.group import (
    GO,
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
from server.ipc.messages import CacheChoice, Camera, Configure, Past
from server.process import module_command, signal_name
from server.worker.generator import DeviceLost, Generator, ModelGenerator, StartError, load_generator

if TYPE_CHECKING:
    import torch

    from cache.group import Group

FOLLOWER_COMMAND = module_command("server.worker.follower")
PATIENCE = 0.5  # of the front's, so that this worker ends with a reason before it is killed for its silence
DEVICE_LOST = 70  # exit status, as of a worker with a device error (EX_SOFTWARE)
LAST_WORDS = 1.0  # seconds in which a process that has ended is found out, and named

log = logging.getLogger("pafu.worker")


class ChunkAbandoned(Exception):
    """The worker has abandoned the chunk, in all processes of the group; in the worker itself, the cause says why."""


def is_shared(error: Exception) -> bool:
    """Whether all processes raise this, from the same numbers; after anything else they have lost each other."""
    from model.stream.video_stream import NotFiniteError

    return isinstance(error, (ValueError, NotFiniteError, ChunkAbandoned))


class FollowerProcess:
    """Another process of the group, with one device. If it ends of its own accord, the worker ends."""

    def __init__(self, rank: int, device: str, group: str) -> None:
        self.rank, self.device, self.free_bytes, self.digest = rank, device, 0, ""
        self._name = f"process {rank} ({device}) of the group {group}"
        self._wanted = True
        ours, theirs = socket.socketpair()
        self.link = Link(ours)
        with theirs:
            self._process = subprocess.Popen(
                [*FOLLOWER_COMMAND, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,  # its end tells the process that the worker is gone
            )
        threading.Thread(target=self._watch, name=self._name, daemon=True).start()

    def reply(self, within: float | None) -> Done:
        """Its reply to the last order. Raises DeviceLost."""
        try:
            done = self.link.reply(within)
        except (LinkClosed, msgspec.MsgspecError) as error:
            raise DeviceLost(f"{self._name} does not answer: {error}") from error
        self.free_bytes, self.digest = done.free_bytes, done.digest or self.digest
        return done

    def agree(self, ours: str | None, within: float) -> None:
        """Raise DeviceLost unless its last order ended with the error ``ours`` too (None: in success)."""
        done = self.reply(within)
        if done.error != ours:
            theirs = f"{done.error}: {done.message}" if done.error else "success"
            raise DeviceLost(f"an order ended with {theirs} in {self._name}, with {ours or 'success'} here")

    def end(self) -> None:
        """Kill the process, if it still exists."""
        self._wanted = False
        self._process.kill()
        self._process.wait()
        self.link.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _watch(self) -> None:
        status = self._process.wait()
        if self._wanted:
            how = signal_name(-status) if status < 0 else f"exit status {status}"
            log.error("%s ended (%s), so its worker ends, and its sessions continue elsewhere", self._name, how)
            for handler in logging.getLogger().handlers:
                handler.flush()
            os._exit(DEVICE_LOST)  # the step loop may wait for that process in the middle of an exchange


class Followers:
    """The other processes, which do as this one does. Any thread may order; orders come one after the other."""

    def __init__(self, devices: list[str], configure: Configure) -> None:
        self._each = [FollowerProcess(rank, device, configure.device) for rank, device in enumerate(devices[1:], 1)]
        self._lock = threading.RLock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._patience = PATIENCE * configure.patience
        with self._contained():
            for follower in self._each:
                load = Load(configure=configure, device=follower.device, rank=follower.rank, size=len(devices))
                follower.link.send(load)

    def __len__(self) -> int:
        return len(self._each)

    @property
    def free_bytes(self) -> int:
        """Of the device with the least."""
        return min(follower.free_bytes for follower in self._each)

    def meet(self, device: torch.device, digest: str) -> Group:
        """Wait until all have loaded the same weights, and form the group. Raises StartError."""
        from model.group.ulysses import join

        for follower in self._each:
            loaded = follower.reply(None)
            if loaded.error:
                raise StartError(f"{follower.device}: {loaded.message}")
            if loaded.digest != digest:
                raise StartError(f"{follower.device} has loaded other weights; the files changed during the start")
        folder = tempfile.TemporaryDirectory(prefix="pafu-group-")
        place = Path(folder.name) / "meeting"
        with self.ordered(Meet(place=str(place), patience=self._patience)):
            group = join(0, 1 + len(self._each), place, device, self._patience)
        if device.type == "cuda":
            self._folder = folder  # NCCL's watchdog looks at the file as long as the group lives
        else:
            folder.cleanup()
        return group

    @contextlib.contextmanager
    def ordered(self, order: Order, more: bytes = b"") -> Iterator[None]:
        """Let the others do ``order`` while this process does the same in the ``with`` block. Raises DeviceLost if not
        all ended alike."""
        with self._lock, self._contained():
            for follower in self._each:
                follower.link.send(order, more)
            try:
                yield
            except Exception as error:
                if is_shared(error):
                    self._agree(type(error).__name__)
                raise
            self._agree(None)

    def end(self) -> None:
        """Kill the other processes."""
        from model.group.ulysses import leave

        for follower in self._each:
            follower.end()
        leave()
        if self._folder is not None:
            self._folder.cleanup()

    def before_pass(self, check: Callable[[], None] | None) -> None:
        """Tell the others whether the next pass is run; ``check`` may raise to abandon the chunk."""
        try:
            if check is not None:
                check()
        except BaseException as error:
            self._say(LEAVE)
            raise ChunkAbandoned from error
        self._say(GO)

    def _say(self, word: bytes) -> None:
        for follower in self._each:
            follower.link.send_bytes(word)

    def _agree(self, ours: str | None) -> None:
        for follower in self._each:
            follower.agree(ours, self._patience)

    @contextlib.contextmanager
    def _contained(self) -> Iterator[None]:
        """End the group, with DeviceLost, after an error that not all processes share."""
        try:
            yield
        except Exception as error:
            if is_shared(error):
                raise
            threading.Event().wait(LAST_WORDS)  # a process that has ended is named by its watch, which ends this one
            self.end()
            if isinstance(error, DeviceLost):
                raise
            raise DeviceLost(f"the group cannot go on: {type(error).__name__}: {error}") from error


class GroupStream:
    """A stream whose chunks all processes of the group generate together (server.worker.generator.Stream)."""

    def __init__(self, number: int, stream: Any, followers: Followers) -> None:
        self.number, self.own = number, stream
        self._followers = followers

    def next_latents(self, before_pass: Callable[[], None] | None = None) -> Any:
        followers = self._followers
        try:
            with followers.ordered(Next(stream=self.number)):
                return self.own.next_latents(lambda: followers.before_pass(before_pass))
        except ChunkAbandoned as abandoned:
            assert abandoned.__cause__ is not None
            raise abandoned.__cause__ from None

    def decode(self, chunk: Any) -> Any:
        return self.own.decode(chunk)

    def set_prompt(self, text: str) -> None:
        with self._followers.ordered(Prompt(stream=self.number, text=text)):
            self.own.set_prompt(text)

    def set_camera(self, control: CameraControl) -> None:
        camera = Camera(speed=control.speed, cut_to=control.cut_to, rise=control.rise)
        with self._followers.ordered(Steer(stream=self.number, camera=camera)):
            self.own.set_camera(control)

    def kept(self) -> KeptTokens:
        kept: KeptTokens = self.own.kept()
        return kept


class GroupGenerator(ModelGenerator):
    """A Generator whose streams run on all devices of a group."""

    def __init__(self, leader: ModelGenerator, configure: Configure, followers: Followers) -> None:
        super().__init__(leader.model, leader.weights, configure.device, leader.versions)
        self.join(followers.meet(leader.torch_device, leader.digest))
        log.info("the group %s has met: one process for each device", configure.device)
        self._followers = followers
        self._opened = 0
        self._gone: list[int] = []  # streams that nobody holds any more; the others still do

    def open(self, prompt: str, seed: int, cache: CacheChoice) -> Any:
        self._forget()
        with self._followers.ordered(Begin(stream=self._opened, prompt=prompt, seed=seed, cache=cache)):
            stream = super().open(prompt, seed, cache)
        return self._held(stream)

    def restore(self, snapshot: bytes) -> Any:
        self._forget()
        with self._followers.ordered(Restore(stream=self._opened, size=len(snapshot)), snapshot):
            stream = super().restore(snapshot)
        return self._held(stream)

    def snapshot(self, stream: Any) -> bytes:
        with self._followers.ordered(Snapshot(stream=stream.number)):
            return super().snapshot(stream.own)

    def begin_with(self, stream: Any, image: bytes) -> None:
        if not self.model.vae.encodes:  # the others would wait for the latents
            raise NoEncoder
        with self._followers.ordered(BeginWith(stream=stream.number, image=image)):
            super().begin_with(stream.own, image)

    def recall(self, stream: Any, past: Past) -> None:
        with self._followers.ordered(Recall(stream=stream.number, past=past)):
            super().recall(stream.own, past)

    def free_bytes(self) -> int:
        self._forget()
        return min(super().free_bytes(), self._followers.free_bytes)

    def release_memory(self) -> None:
        super().release_memory()
        self._forget()

    def _held(self, stream: Any) -> GroupStream:
        held = GroupStream(self._opened, stream, self._followers)
        weakref.finalize(held, self._gone.append, held.number)
        self._opened += 1
        return held

    def _forget(self) -> None:
        gone = [self._gone.pop() for _ in range(len(self._gone))]
        with self._followers.ordered(Forget(streams=gone)):
            pass


def load(configure: Configure) -> Generator:
    """Load the model on the device, or the devices, that ``configure`` names. Raises StartError."""
    devices = configure.device.split("+")
    followers = Followers(devices, configure)  # which load at the same time
    leader = load_generator(msgspec.structs.replace(configure, device=devices[0]))
    return GroupGenerator(leader, configure, followers) if followers else leader


@contextlib.contextmanager
def in_group(leader: ModelGenerator, configure: Configure) -> Iterator[ModelGenerator]:
    """A generator on all devices that ``configure`` names, of which the ``leader`` has the first, for a while."""
    followers = Followers(configure.device.split("+"), configure)
    try:
        yield GroupGenerator(leader, configure, followers) if followers else leader
    finally:
        followers.end()
