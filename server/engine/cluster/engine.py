"""The Ray engine: one named actor per device of every node, shared by all fronts.

Every front watches the nodes and creates missing actors; the first front creates an actor, the others find it by name.
Ray keeps the actor on its node, assigns its device and restarts it when it dies. Actors outlive the fronts. A new node
adds places; when a node is lost, its sessions move.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ray
from msgspec import structs
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from server import __version__
from server.config import ConfigError, Settings, devices
from server.config.devices import Slot
from server.engine.admission import WIDEST, cache_bytes
from server.engine.assignment import Assignment, assign
from server.engine.cluster.conversation import HostLost, HostMismatch, decoded_about, mismatch
from server.engine.cluster.host import ALONE_SECONDS, Host
from server.engine.cluster.join import first_line, leaving
from server.engine.cluster.messages import Hello, Stores, encode
from server.engine.cluster.nodes import workers
from server.engine.cluster.remote import RemoteMember
from server.engine.interface import EngineSession
from server.engine.pool import Pool
from server.engine.pooled import SHUT_DOWN, PooledEngine
from server.engine.slots import check_groups
from server.engine.supervisor import WORKER_COMMAND
from server.errors import PafuError
from server.ipc.messages import CacheChoice, Open
from server.states import EngineState

log = logging.getLogger("pafu.engine")

LOOK_SECONDS = 1.0  # poll interval for the cluster's nodes
ABOUT_WITHIN = 20.0
MOST_CALLS = 1000  # concurrent calls on one actor


class Actor(Host):
    """The host as a Ray actor."""

    def __init__(self, assignment: bytes) -> None:
        super().__init__(assignment, self._end)
        unused = threading.Timer(ALONE_SECONDS, lambda: None if self.used else self._end())
        unused.daemon = True
        unused.start()  # Ray may start an actor long after its front has gone

    def _end(self) -> None:
        ray.kill(ray.get_runtime_context().current_actor)


class RayLink:
    """Calls a host over Ray; ``hello`` finds or creates the actor."""

    def __init__(self, assignment: Assignment, node: str) -> None:
        self._assignment, self._node = assignment, node
        self._actor: Any = None

    async def about(self) -> bytes:
        return bytes(await self._call("about"))

    async def hello(self, hello: bytes) -> bytes:
        if self._actor is None:
            self._actor = await asyncio.to_thread(self._made)
        try:
            return bytes(await self._call("hello", hello))
        except HostLost:
            self._actor = None  # it may have ended for good: the next call finds or creates another
            raise

    async def tell(self, front: str, told: bytes) -> None:
        await self._call("tell", front, told)

    async def hear(self, front: str) -> bytes:
        return bytes(await self._call("hear", front))

    async def bye(self, front: str) -> None:
        await self._call("bye", front)

    async def _call(self, method: str, *given: Any) -> Any:
        try:
            return await getattr(self._actor, method).remote(*given)
        except RayError as error:
            raise HostLost(first_line(error)) from None

    def _made(self) -> Any:
        slot = self._assignment.slot
        gpu = slot.device.startswith("cuda")
        options = {
            "name": f"worker {slot.worker}",
            "lifetime": "detached",
            "get_if_exists": True,
            "num_gpus": len(slot.devices) if gpu else 0,
            "num_cpus": 0 if gpu else len(slot.devices),
            "max_restarts": -1,
            "max_concurrency": MOST_CALLS,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(self._node, soft=False),
        }
        return ray.remote(Actor).options(**options).remote(encode(self._assignment))


class ClusterEngine(PooledEngine):
    """An engine over the workers of a Ray cluster, which must be joined first (server.engine.cluster.join).

    ``stores``: this front's stores for sessions and jobs, which all fronts must share; ``make_stores`` creates those
    that do not exist yet.
    """

    grows = True

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str] = WORKER_COMMAND,
        stores: Stores | None = None,
        make_stores: Callable[[], Stores] | None = None,
    ) -> None:
        super().__init__(settings.spec, Pool([], settings.max_sessions))
        self._settings, self._command = settings, tuple(command)
        self._parts = devices.parse(settings.device)
        check_groups(settings.spec, self._parts)
        self._hello = Hello(front=f"front_{secrets.token_hex(8)}", version=__version__, stores=stores or {})
        self._make_stores = make_stores
        self._members: dict[str, RemoteMember] = {}
        self._looking: asyncio.Task[None] | None = None
        self._trouble = f"no node of the Ray cluster has room for a worker on {settings.device!r}"
        self._note_change()

    def check_others(self) -> None:
        """Raises ConfigError if existing workers belong to servers incompatible with this one. Ends such workers if no
        server uses them."""
        ours = assign(self._settings, Slot("", "cpu", 1, 1.0), 1, self._command)
        named = ray.util.list_named_actors(all_namespaces=True)
        names = [actor["name"] for actor in named if actor["namespace"] == self._settings.ray_namespace]
        asked = [ray.get_actor(name, self._settings.ray_namespace).about.remote() for name in names]
        told, _ = ray.wait(asked, num_returns=len(asked), timeout=ABOUT_WITHIN) if asked else ([], [])
        for name, reply in zip(names, asked, strict=True):
            try:
                about = decoded_about(ray.get(reply)) if reply in told else None
            except HostMismatch as error:
                raise ConfigError(str(error), "engine") from None
            except RayError:  # the actor is just ending
                continue
            if about is None or not (why := mismatch(about, self._hello, ours)):
                continue
            if about.stores is not None:
                raise ConfigError(why, "engine")
            log.warning("ending %s, which no server uses: %s", name, why)
            ray.kill(ray.get_actor(name, self._settings.ray_namespace))

    async def start(self) -> None:
        if self._make_stores is not None:
            self._hello = structs.replace(self._hello, stores=await asyncio.to_thread(self._make_stores))
        await self._look()
        if not self._members:
            log.warning("%s; waiting for one", self._trouble)
        self._looking = asyncio.create_task(self._keep_looking(), name="nodes")

    async def stop(self, within: float) -> None:
        """End this front's sessions and leave the workers to the other fronts."""
        self._stopped = True
        self._drains.cancel()
        if self._looking is not None:
            self._looking.cancel()
        leaving = [member.stop(max(within, 1.0), "shutting_down", SHUT_DOWN) for member in self._members.values()]
        self._members.clear()
        await asyncio.gather(*leaving)
        self.pool.members.clear()
        self._note_change()

    @property
    def state(self) -> EngineState:
        return super().state if self._stopped or self.pool.members else EngineState.STARTING

    def _message(self) -> str:
        return super()._message() if self._stopped or self.pool.members else self._trouble

    def _note_change(self) -> None:
        for member in self.pool.members:
            if member.draining:
                self._drains.follow(member)
        super()._note_change()

    def cache_bytes(self, cache: CacheChoice) -> int:
        usual = cache_bytes(self._settings.spec, cache, WIDEST)
        return super().cache_bytes(cache) if self.pool.members else usual

    async def open(self, order: Open) -> EngineSession:
        """Like every engine, but first evicts the session if a dead front left it on a worker.

        If another front takes the place first, tries the next worker.
        """
        for member in self._members.values():
            if order.session in member.account and order.session not in member.lines:
                member.evict(order.session)
        tries = len(self._members)
        while True:
            try:
                return await super().open(order)
            except PafuError as error:
                tries -= 1
                if error.kind.code != "session_rejected" or tries <= 0:
                    raise

    # ---- the nodes

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Exception as error:  # a cluster problem; sessions continue meanwhile
                self._trouble = f"the Ray cluster does not answer: {first_line(error)}"
                log.warning("%s", self._trouble)

    async def _look(self) -> None:
        """Add and remove members to match the workers of all live nodes."""
        wanted = workers(await asyncio.to_thread(ray.nodes), self._parts, self._settings.threads)
        for name in [name for name in self._members if name not in wanted]:
            member = self._members.pop(name)
            self.pool.members.remove(member)
            log.warning("worker %s was lost with its node", name)
            await member.stop(0.0, "worker_failed", "the worker was lost (its node is gone)")
        going = await asyncio.to_thread(leaving)
        for name, (node, slot) in wanted.items():
            if node in going:
                self._leave(name)
            elif name not in self._members:
                self._add(node, slot)
        self._note_change()

    def _leave(self, name: str) -> None:
        """Ray will take the worker's node away: move its sessions now, if another worker serves."""
        member = self._members.get(name)
        if member is not None and not member.draining:
            with contextlib.suppress(PafuError):  # the only worker: its sessions move when another one comes
                self._drains.begin(name)
                log.warning("Ray will take the node of worker %s away; its sessions move", name)

    def _add(self, node: str, slot: Slot) -> None:
        alone = assign(self._settings, slot, 1, self._command)  # max_sessions limits all workers together
        assignment = structs.replace(alone, name=f"worker {slot.worker} ({slot.device})", most=None)
        member = RemoteMember(assignment, RayLink(assignment, node), self._hello, self.observer, self._note_change)
        self._members[slot.worker] = member
        self.pool.members.append(member)
        member.start()
