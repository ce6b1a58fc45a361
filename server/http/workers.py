"""What an operator may do to a worker: take it out of service while the others serve, and take it back."""

from __future__ import annotations

from fastapi import APIRouter

from server.engine.interface import Engine
from server.http import status


def routes(engine: Engine) -> APIRouter:
    """Beneath /v1/workers, which only the operator's secret opens (server.access.gate)."""
    router = APIRouter()

    @router.post("/v1/workers/{worker}/drain")
    async def drain(worker: str) -> status.Worker:
        return status.worker(engine.drain(worker))

    @router.delete("/v1/workers/{worker}/drain")
    async def undrain(worker: str) -> status.Worker:
        return status.worker(await engine.undrain(worker))

    return router
