"""Discrete-event simulation of a day: viewers arrive, wait, are placed and moved as GPUs fail or drain."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from server.simulate.worker import Load

HOUR = 3600.0
# Arrivals in each hour of the day, relative to the busiest hour, which is in the evening.
EVENING = (
    *(0.30, 0.20, 0.14, 0.10, 0.08, 0.10, 0.16, 0.26, 0.36, 0.42, 0.46, 0.50),
    *(0.54, 0.54, 0.52, 0.54, 0.60, 0.70, 0.82, 0.94, 1.00, 0.96, 0.78, 0.50),
)
Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Arrivals in the busiest hour, mean stay and longest wait for a place in seconds, and the daily profile."""

    per_hour: float
    stay: float
    patience: float
    profile: tuple[float, ...] = EVENING


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """GPUs, places per GPU, mean hours between failures of a GPU and seconds until it is back.

    ``rollouts``: hours at which all GPUs are drained one after another; ``drain``: seconds that each drain takes.
    """

    gpus: int
    places: int
    hours_between_failures: float = math.inf
    restart: float = 60.0
    rollouts: tuple[float, ...] = ()
    drain: float = 30.0


@dataclass
class Gpu:
    """One GPU: its number, current viewers, and whether it is up."""

    number: int
    viewers: int = 0
    up: bool = True


@dataclass
class Day:
    """Results. ``waits`` and ``watched`` are viewer seconds; ``busy`` and ``up`` are summed over GPU seconds."""

    arrived: int = 0
    served: int = 0
    refused: int = 0
    moved: int = 0
    waits: list[float] = field(default_factory=list)
    watched: float = 0.0
    busy: float = 0.0
    missed: float = 0.0  # chunks
    chunks: float = 0.0
    up: float = 0.0
    series: list[tuple[float, int, int]] = field(default_factory=list)  # (hour, viewers, waiting)


class Simulation:
    """Owns the clock, the GPUs and the queue of waiting viewers."""

    def __init__(
        self, cluster: Cluster, demand: Demand, loads: Sequence[Load], media_seconds: float, seed: int
    ) -> None:
        self._env = simpy.Environment()
        self._cluster, self._demand, self._loads, self._media = cluster, demand, loads, media_seconds
        self._dice, self._bad_luck = random.Random(seed), random.Random(~seed)  # failures do not change the arrivals
        self._gpus = [Gpu(number) for number in range(cluster.gpus)]
        self._line: list[simpy.Event] = []
        self._since = [0.0] * cluster.gpus  # last update of each GPU's figures
        self._downs = [self._env.event() for _ in self._gpus]  # the next outage of each GPU
        self.day = Day()

    def run(self, hours: float = 24.0) -> Day:
        """Simulate ``hours`` hours."""
        self._env.process(self._arrivals())
        self._env.process(self._record(hours))
        for gpu in self._gpus:
            if math.isfinite(self._cluster.hours_between_failures):
                self._env.process(self._fails(gpu))
        for hour in self._cluster.rollouts:
            self._env.process(self._rollout(hour))
        self._env.run(until=hours * HOUR)
        for gpu in self._gpus:
            self._account(gpu)
        return self.day

    # ---- viewers

    def _arrivals(self) -> Process:
        while True:
            hour = int(self._env.now / HOUR) % len(self._demand.profile)
            rate = self._demand.per_hour * self._demand.profile[hour] / HOUR
            yield self._env.timeout(self._dice.expovariate(rate) if rate else HOUR)
            self.day.arrived += 1
            self._env.process(self._viewer(self._dice.expovariate(1 / self._demand.stay)))

    def _viewer(self, stay: float) -> Process:
        asked = self._env.now
        gpu = self._place() or (yield from self._wait_in_line())
        if gpu is None:
            self.day.refused += 1
            return
        self.day.served += 1
        self.day.waits.append(self._env.now - asked)
        yield from self._watch(gpu, stay)

    def _wait_in_line(self) -> Generator[simpy.Event, Any, Gpu | None]:
        turn = self._env.event()
        self._line.append(turn)
        yield turn | self._env.timeout(self._demand.patience)
        if not turn.triggered:
            self._line.remove(turn)
            return None
        given = turn.value
        return given if isinstance(given, Gpu) else None

    def _watch(self, gpu: Gpu, stay: float) -> Process:
        """Watch for ``stay`` seconds, moving to another GPU if necessary."""
        left = stay
        while left > 0:
            began, dies = self._env.now, self._downs[gpu.number]
            yield self._env.timeout(left) | dies
            left -= self._env.now - began
            self.day.watched += self._env.now - began
            if not dies.triggered:
                return self._leave(gpu)
            self.day.moved += 1
            gpu = yield from self._place_again()

    def _place_again(self) -> Generator[simpy.Event, Any, Gpu]:
        """Wait until a started session has a place again."""
        gpu = self._place()
        while gpu is None:
            yield self._env.timeout(1.0)
            gpu = self._place()
        return gpu

    def _place(self) -> Gpu | None:
        """Take a place on the emptiest GPU that is up, or None."""
        free = [gpu for gpu in self._gpus if gpu.up and gpu.viewers < self._cluster.places]
        if not free:
            return None
        gpu = min(free, key=lambda one: one.viewers)
        self._account(gpu)
        gpu.viewers += 1
        return gpu

    def _leave(self, gpu: Gpu) -> None:
        self._account(gpu)
        gpu.viewers -= 1
        self._serve_line()

    def _serve_line(self) -> None:
        while self._line and (gpu := self._place()) is not None:
            self._line.pop(0).succeed(gpu)

    # ---- GPUs

    def _down(self, gpu: Gpu, seconds: float) -> Process:
        self._account(gpu)
        gpu.up, gpu.viewers = False, 0
        went, self._downs[gpu.number] = self._downs[gpu.number], self._env.event()
        went.succeed()
        yield self._env.timeout(seconds)
        self._account(gpu)
        gpu.up = True
        self._serve_line()

    def _fails(self, gpu: Gpu) -> Process:
        while True:
            yield self._env.timeout(self._bad_luck.expovariate(1 / (self._cluster.hours_between_failures * HOUR)))
            if gpu.up:
                yield from self._down(gpu, self._cluster.restart)

    def _rollout(self, hour: float) -> Process:
        yield self._env.timeout(hour * HOUR)
        for gpu in self._gpus:
            if gpu.up:
                yield from self._down(gpu, self._cluster.drain + self._cluster.restart)

    # ---- figures

    def _account(self, gpu: Gpu) -> None:
        """Add this GPU's figures since its last update."""
        seconds, self._since[gpu.number] = self._env.now - self._since[gpu.number], self._env.now
        load = self._loads[gpu.viewers]
        chunks = gpu.viewers * seconds / self._media
        self.day.busy += seconds * load.busy
        self.day.chunks += chunks
        self.day.missed += chunks * load.missed
        self.day.up += seconds * gpu.up

    def _record(self, hours: float, points: int = 288) -> Process:
        while True:
            viewers = sum(gpu.viewers for gpu in self._gpus)
            self.day.series.append((self._env.now / HOUR, viewers, len(self._line)))
            yield self._env.timeout(hours * HOUR / points)
