"""Ids of the stores for jobs and sessions, by which servers can tell whether they share them.

Paths and addresses are not enough: two machines can have different folders of the same name, or different databases on
loopback. So each store holds a random id, created by the first server that uses it.
"""

from __future__ import annotations

import contextlib
import uuid

from sqlalchemy import Connection, insert, make_url, select

from server.config import Settings
from server.jobs.connections import Connections, as_it_is, database_url
from server.jobs.files import Files, open_files
from server.jobs.schema import meta

NAME = "store-id"
Stores = dict[str, tuple[str, str]]  # setting name -> (id of the store, its location)


def known(settings: Settings) -> Stores:
    """The ids that are there; empty for a store that no server has used yet. Creates nothing. Raises what opening the
    stores raises."""
    with as_it_is(_url(settings)) as connection:
        database = _of_database(connection) if connection is not None else ""
    files = [(name, _of_files(store), place) for name, store, place in _file_stores(settings)]
    return {"database": (database, _place(settings))} | {name: (found, place) for name, found, place in files}


def made(settings: Settings) -> Stores:
    """As ``known``, after creating the stores and ids that are missing."""
    connections = Connections(_url(settings))
    try:
        with connections.alone() as connection:  # so that two servers do not both create an id
            found = {"database": (_of_database(connection) or _give_database(connection), _place(settings))}
            for name, files, place in _file_stores(settings):
                found[name] = (_of_files(files) or _give_files(files), place)
    finally:
        connections.close()
    return found


def _url(settings: Settings) -> str:
    return database_url(settings.database, settings.data_dir)


def _place(settings: Settings) -> str:
    return make_url(_url(settings)).render_as_string(hide_password=True)


def _file_stores(settings: Settings) -> list[tuple[str, Files, str]]:
    """Setting name, store and place of each file store."""
    return [
        (name, open_files(given, settings.data_dir, name), given or str(settings.data_dir / name))
        for name, given in (("videos", settings.videos), ("sessions", settings.sessions))
    ]


def _of_database(connection: Connection) -> str:
    known: str | None = connection.execute(select(meta.c.value).where(meta.c.name == NAME)).scalar_one_or_none()
    return known or ""


def _give_database(connection: Connection) -> str:
    given = uuid.uuid4().hex
    connection.execute(insert(meta).values(name=NAME, value=given))
    return given


def _of_files(files: Files) -> str:
    with contextlib.suppress(FileNotFoundError):
        return files.read(NAME).decode()
    return ""


def _give_files(files: Files) -> str:
    given = uuid.uuid4().hex
    files.write(NAME, given.encode())
    return given
