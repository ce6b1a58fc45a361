"""Operator routes: drain a worker while the others serve, and undo it."""

from __future__ import annotations

from fastapi import APIRouter

from server.engine.interface import Engine
from server.http import status


def routes(engine: Engine) -> APIRouter:
    """Routes below /v1/workers, which require the operator's secret (server.access.gate)."""
    router = APIRouter()

    @router.post("/v1/workers/{worker}/drain")
    async def drain(worker: str) -> status.Worker:
        return status.worker(engine.drain(worker))

    @router.delete("/v1/workers/{worker}/drain")
    async def undrain(worker: str) -> status.Worker:
        return status.worker(await engine.undrain(worker))

    return router
