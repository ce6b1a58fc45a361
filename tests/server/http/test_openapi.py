"""Promise: OpenAPI is true: every answer to any request is documented.

Schemathesis generates good and bad requests from the document and checks every answer: no undocumented 5xx, the status,
the content type, the schema, and that routes with keys refuse callers without one. PAFU_TEST_EXAMPLES=2000 takes long.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import httpx
from fastapi.responses import JSONResponse

EXAMPLES = os.environ.get("PAFU_TEST_EXAMPLES", "5")  # of each route
KEY = "the-key-of-the-contract-0123456789"
# A request that the document allows may still be refused, for a reason that no schema can say (sizes of a model).
LEFT_OUT = "positive_data_acceptance"


async def schemathesis(folder: Path, url: str, *options: str, key: str | None = KEY) -> tuple[int, str]:
    """Exit status and report of a run over all routes."""
    shown = ("--header", f"Authorization: Bearer {key}") if key else ()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *(*shown, "--max-examples", EXAMPLES, "--exclude-checks", LEFT_OUT),
        *("--generation-database", "none", "--no-color", "--request-timeout", "60", *options),
        cwd=folder,  # it keeps what it found in its working directory
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    report, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, report.decode()


async def test_every_answer_of_every_route_is_as_documented(serve, tmp_path) -> None:
    server = await serve(api_keys=KEY)
    await server.engine.settled()
    status, report = await schemathesis(tmp_path, server.url, "--seed", "1")
    assert status == 0, report
    await server.works(additional_headers={"authorization": f"Bearer {KEY}"})


async def test_a_server_without_keys_documents_none(serve, tmp_path) -> None:
    server = await serve()
    await server.engine.settled()
    only = ("--phases", "coverage", "--exclude-path", "/v1/videos/sync", "--seed", "1")  # sync is slow
    status, report = await schemathesis(tmp_path, server.url, *only, key=None)
    assert status == 0, report


async def test_every_route_is_documented_with_its_answers_and_whether_it_needs_a_key(serve) -> None:
    server = await serve(api_keys=KEY)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        document = (await client.get("/openapi.json", headers={"authorization": f"Bearer {KEY}"})).json()
    assert {"/v1/models", "/health", "/readyz", "/v1/realtime/client_secrets"} <= set(document["paths"])
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            told = success(operation)
            assert told, f"{method} {path} does not say what it answers with"
            assert {"4XX", "5XX"} <= set(operation["responses"]), f"{method} {path} hides its errors"
            assert "422" not in operation["responses"], f"{method} {path}: errors of validation are 400 here"
            is_open = path in ("/healthz", "/readyz") or "{token}" in path
            needs = operation.get("security", document["security"])
            secret = "operator" if path.startswith("/v1/workers/") else "key"
            assert needs == ([] if is_open else [{secret: []}]), f"{method} {path}"


def success(operation: dict[str, Any]) -> list[Any]:
    """The schemas or content types of the successful replies."""
    good = [reply for status, reply in operation["responses"].items() if status.startswith("2")]
    return [content.get("schema") or kind for reply in good for kind, content in reply.get("content", {}).items()]


async def test_the_check_finds_an_answer_that_is_not_as_documented(serve, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("server.http.status.version", lambda engine: JSONResponse({"version": 7}))
    server = await serve(api_keys=KEY)
    status, report = await schemathesis(tmp_path, server.url, "--include-path", "/version", "--max-examples", "1")
    assert status == 1 and "schema" in report.lower(), report
