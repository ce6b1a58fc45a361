"""Promise: a chunk figure declared in one place is in the message, the document, the metric, the span and the client's
type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from server.http import client_types

ROOT = Path(__file__).resolve().parents[3]
# The declaration of one more figure, put into the source of model.stream.chunk_stats before anything else is imported.
SCRIPT = """
import json, sys
from pathlib import Path
import model.stream.chunk_stats as source

anchor = "    cache_bytes: Annotated"
text = Path(source.__file__).read_text()
assert text.count(anchor) == 1
more = '    surprise: Annotated[int, figure("How odd it is.", Measure("pafu_chunk_surprise_total", "counter"))]\\n'
exec(compile(text.replace(anchor, more + anchor), source.__file__, "exec"), vars(source))

from model.spec import spec_named
from server.http import asyncapi, client_types
from server.ipc import messages
from server.live.server_messages import ChunkMetadata, encode
from server.telemetry import traces
from server.telemetry.observer import Observer

stats = source.blank(source.ChunkStats, cache_policy="window", surprise=7)
made = messages.Fragment(
    session="s", index=0, pictures=12, data=b"", started=[], active=[], completed=[], camera=(0, 0, 0), remembered=[],
    stats=messages.ServedStats.of(stats, {"total": 0.5}, lead_seconds=1.0, memory=None),
    past=messages.PastChunk(index=0, prompt="", camera=(0, 0, 0), latents=b""),
)
fragment = messages.decode_worker(messages.frame(made)[messages.HEADER.size:])  # as it comes out of the worker
observer = Observer(spec_named("test-tiny"))
observer.made("0", fragment)
print(json.dumps({
    "message": json.loads(encode(ChunkMetadata.of(fragment, 0, None, "req_1")))["stats"]["surprise"],
    "document": asyncapi.document()["components"]["schemas"]["ServedStats"]["properties"]["surprise"]["description"],
    "metric": observer.metrics.read("pafu_chunk_surprise_total", policy="window"),
    "span": traces.described(fragment)["pafu.surprise"],
    "client": "surprise: int  # How odd it is" in client_types.text(),
}))
"""


def test_a_figure_added_in_one_place_shows_up_everywhere() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, text=True, stdout=-1
    )
    assert done.returncode == 0
    expected = '{"message": 7, "document": "How odd it is.", "metric": 7.0, "span": 7, "client": true}'
    assert done.stdout.strip() == expected


def test_the_clients_type_is_the_servers() -> None:
    there = (ROOT / "clients" / "python" / "pafu_client" / "chunk_stats.py").read_text()
    assert there == client_types.text(), "run python -m deploy.generate"
