"""Ids of the stores for jobs and sessions, by which servers can tell whether they share them.

Paths and addresses are not enough: two machines can have different folders of the same name, or different databases on
loopback. So each store holds a random id, created by the first server that uses it.
"""

from __future__ import annotations

import contextlib
import uuid

from sqlalchemy import Connection, insert, make_url, select

from server.config import Settings
from server.jobs.connections import Connections, database_url
from server.jobs.files import Files, open_files
from server.jobs.schema import meta

NAME = "store-id"


def stores(settings: Settings) -> dict[str, tuple[str, str]]:
    """Setting name -> (id of the store, its location). Raises what opening the stores raises."""
    url = database_url(settings.database, settings.data_dir)
    connections = Connections(url)
    try:
        with connections.alone() as connection:  # so that two servers do not both create an id
            found = {"database": (_of_database(connection), make_url(url).render_as_string(hide_password=True))}
            for name, given in (("videos", settings.videos), ("sessions", settings.sessions)):
                files = open_files(given, settings.data_dir, name)
                found[name] = (_of_files(files), given or str(settings.data_dir / name))
    finally:
        connections.close()
    return found


def _of_database(connection: Connection) -> str:
    known: str | None = connection.execute(select(meta.c.value).where(meta.c.name == NAME)).scalar_one_or_none()
    if known is None:
        known = uuid.uuid4().hex
        connection.execute(insert(meta).values(name=NAME, value=known))
    return known


def _of_files(files: Files) -> str:
    with contextlib.suppress(FileNotFoundError):
        return files.read(NAME).decode()
    made = uuid.uuid4().hex
    files.write(NAME, made.encode())
    return made
