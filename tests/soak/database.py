"""Where the database stops: transactions a second of what live sessions and jobs ask of it, in PostgreSQL.

    python tests/soak/database.py                  # fsync on, as it ships; needs PostgreSQL's initdb and pg_ctl
    python tests/soak/database.py --servers 16     # connections that write at the same time

Each row runs one operation of the server's own code from every connection at once. A live session takes its claim when
it begins, renews it whenever its journal is begun anew (once a MiB of chunks), and drops it at the end. A running job
writes a row for every chunk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def rate(work: list[Callable[[], None]], seconds: float) -> float:
    """Calls per second of ``work``, each repeated in its own thread."""
    end = time.perf_counter() + seconds

    def repeat(call: Callable[[], None]) -> int:
        done = 0
        while time.perf_counter() < end:
            call()
            done += 1
        return done

    with ThreadPoolExecutor(len(work)) as threads:
        return sum(threads.map(repeat, work)) / seconds


def measure(url: str, servers: int, seconds: float) -> dict[str, float]:
    from server.jobs.claims import Claims
    from server.jobs.connections import Connections
    from server.jobs.job import Order, StoredChunk
    from server.jobs.store import JobStore
    from tests.server.jobs.conftest import CACHE

    stores = [JobStore(url) for _ in range(servers)]
    claims = [Claims(lambda: Connections(url)) for _ in range(servers)]
    order = Order(model="m", prompt="p", seed=1, width=64, height=64, fps=16, pictures=9, cache=CACHE)
    for number, store in enumerate(stores):
        store.add(f"job_{number}", "caller", order)
    taken = [store.claim("m") for store in stores]
    fences = [claim.take(f"live_{number}") for number, claim in enumerate(claims)]

    def chunk_of(number: int) -> Callable[[], None]:
        made = iter(range(10**9))
        _, lease = taken[number] or (None, None)
        assert lease is not None

        def add() -> None:
            chunk = next(made)
            stores[number].add_chunk(lease, StoredChunk(number=chunk, media=f"{chunk}.mp4", past=f"{chunk}.past"), 0.1)

        return add

    def renewal_of(number: int) -> Callable[[], None]:
        def renew() -> None:
            if not claims[number].keep(f"live_{number}", fences[number]):
                raise RuntimeError("a claim was lost")

        return renew

    def visit_of(number: int) -> Callable[[], None]:
        def visit() -> None:
            name = f"visit_{number}"
            claims[number].drop(name, claims[number].take(name))

        return visit

    numbers = range(servers)
    found = {
        "chunks_of_jobs": rate([chunk_of(number) for number in numbers], seconds),
        "renewals_of_sessions": rate([renewal_of(number) for number in numbers], seconds),
        "sessions_begun_and_ended": rate([visit_of(number) for number in numbers], seconds),
    }
    for store in stores:
        store.close()
    for claim in claims:
        claim.close()
    return {name: round(value, 1) for name, value in found.items()}


def main() -> int:
    from tests.server.jobs.conftest import Postgres, postgres_programs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each operation")
    options = parser.parse_args()
    programs = postgres_programs()
    if programs is None:
        sys.exit("PostgreSQL (initdb, pg_ctl) is not here")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        postgres = Postgres(programs, Path(folder), fsync=True)
        postgres.start()
        try:
            found = measure(postgres.url, options.servers, options.seconds)
        finally:
            postgres.stop()
    print(json.dumps({"servers": options.servers, "a_second": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
