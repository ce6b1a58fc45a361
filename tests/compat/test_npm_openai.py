"""Promise: the newest version of OpenAI's npm client works unchanged."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

HERE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def client() -> Path:
    """The program, beside the client as the lock file has it."""
    if shutil.which("npm") is None:
        no = pytest.fail if os.environ.get("PAFU_TEST_REQUIRE_NODE") == "1" else pytest.skip
        no("no npm; apt-get install nodejs npm")
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]["openai"]
    installed = HERE / "node_modules" / "openai" / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != wanted:
        subprocess.run(["npm", "ci", "--silent"], cwd=HERE, check=True, timeout=300)
    return HERE / "openai.mjs"


async def test_models_orders_downloads_lists_and_what_is_not_offered(client: Path, server) -> None:
    await server.engine.settled()
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "png")
    command = ["node", str(client), server.url, base64.b64encode(picture.getvalue()).decode()]
    running = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, problems = await running.communicate()
    assert running.returncode == 0, problems.decode()
    seen = json.loads(said)
    assert seen["models"] == ["test-tiny"] and seen["model"] == "test-tiny"
    assert seen["noModel"]["status"] == 404 and "test-tiny" in seen["noModel"]["message"]
    assert seen["again"] is True and seen["fresh"] == ["video", 0, None]
    assert seen["early"]["status"] == 400 and seen["early"]["code"] == "not_completed"
    assert seen["status"] == "completed" and seen["film"] > 1000 and seen["thumbnail"].startswith("image/")
    assert seen["remixed"] is True and seen["longer"] == ["queued", 0]
    assert seen["picture"] == "queued", "a picture to begin with is taken"
    for refused in (seen["edit"], seen["character"], seen["noCharacter"]):
        assert refused["status"] in (400, 404) and "not offered" in refused["message"], refused
    assert seen["wrong"]["status"] == 400 and seen["wrong"]["param"] == "size"
    assert seen["listed"] == [seen["listed"][0], seen["listed"][0], True] and seen["listed"][0] >= 3
    assert set(seen["deleted"]) == {True} and seen["gone"]["status"] == 404
