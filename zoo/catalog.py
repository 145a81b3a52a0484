"""SQLite catalogue of a zoo: what listing and finding are answered from. A cache, built again at any time."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.card import is_text
from zoo.errors import ZooError
from zoo.names import check_id
from zoo.record import Record

VERSION = 1  # of the table; another version is thrown away and built again
_WAIT_SECONDS = 30.0
_SETTLED_NS = 2_000_000_000  # a folder changed less than this ago may change again within the same time stamp

_TABLE = """
CREATE TABLE IF NOT EXISTS modules (
    id TEXT PRIMARY KEY, inode INTEGER NOT NULL, task TEXT, method TEXT, category TEXT, backbone TEXT,
    fingerprint TEXT, license TEXT, created TEXT, text TEXT, problem TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_task ON modules (task, method);
CREATE INDEX IF NOT EXISTS by_fingerprint ON modules (fingerprint, method);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER);
"""
_COLUMNS = ("task", "method", "category", "backbone", "fingerprint", "license", "created")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue: enough for a table of thousands of modules without reading a card.

    Args:
        text: Of the module's `card.json`.
    """

    id: str
    task: str
    method: str
    category: str
    backbone: str
    fingerprint: str
    license: str
    created: str
    text: str


class Catalog:
    """The catalogue of the modules in one folder.

    It is brought up to date by comparing the names and inodes in the folder with its own; only the cards of new
    modules are read. A broken or outdated file is thrown away and built again.

    Args:
        modules: The folder with a folder for each module; it need not be there.
        path: Of the SQLite file, or None to keep it nowhere: then every question reads the cards.
    """

    def __init__(self, modules: Path, path: Path | None) -> None:
        self.modules, self.path = modules, path

    def entries(self, **wanted: str | None) -> list[Entry]:
        """All modules, sorted by id, whose columns have the wanted values; None wants nothing.

        Raises:
            ZooError: the catalogue is held by another process for more than 30 seconds.
        """
        conditions = {name: value for name, value in wanted.items() if value is not None}
        unknown = set(conditions) - set(_COLUMNS)
        if unknown:
            raise ValueError(f"the catalogue has no column {sorted(unknown)[0]!r}")
        where = "".join(f" AND {name} = ?" for name in conditions)
        query = f"SELECT id, {', '.join(_COLUMNS)}, text FROM modules WHERE problem IS NULL{where} ORDER BY id"
        return [Entry(*row) for row in self._ask(query, tuple(conditions.values()))]

    def ids(self) -> list[str]:
        """Id of every module, sorted."""
        return [row[0] for row in self._ask("SELECT id FROM modules WHERE problem IS NULL ORDER BY id", ())]

    def problems(self) -> dict[str, str]:
        """Folder name -> why it is not listed, for each whose card could not be read."""
        return dict(self._ask("SELECT id, problem FROM modules WHERE problem IS NOT NULL ORDER BY id", ()))

    def refresh(self) -> None:
        """Bring it up to date now; asking does that too."""
        self._ask("SELECT 1", ())

    def clear(self) -> None:
        """Have every card read again; until then what is known stays listed, for whoever asks meanwhile."""
        with contextlib.suppress(FileNotFoundError, sqlite3.DatabaseError), self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE modules SET inode = -1")
            connection.execute("DELETE FROM state")
            connection.execute("COMMIT")

    def _ask(self, query: str, values: Sequence[str]) -> list[tuple]:
        for attempt in range(3):
            try:
                with self._open() as connection:
                    self._update(connection)
                    return connection.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                if "database is locked" in str(error):
                    raise ZooError(
                        f"the catalogue {self.path} is held by another process",
                        found=str(error),
                        hint="end that process; the file is a cache and may be deleted",
                    ) from None
                self._drop(error, attempt)
        raise ZooError(f"SQLite cannot list {self.modules}", hint="look at the free memory and disk")

    def _drop(self, error: sqlite3.Error, attempt: int) -> None:
        """Throw a broken file away; where that did not help, go on without one."""
        log.info("the catalogue %s is built again: %s", self.path, error)
        if self.path is None:
            return
        try:
            for end in ("", "-journal", "-wal", "-shm"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        except OSError as failure:
            log.info("the catalogue %s cannot be deleted: %s", self.path, failure)
            attempt += 1
        if attempt > 0:
            self.path = None

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if self.path is not None and not self.path.parent.is_dir():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                log.info("no catalogue can be kept in %s: %s", self.path.parent, error)
                self.path = None
        connection = sqlite3.connect(
            ":memory:" if self.path is None else self.path, timeout=_WAIT_SECONDS, isolation_level=None
        )
        try:
            # It can be built again at any time, so waiting for the disk is not worth it.
            connection.execute("PRAGMA synchronous = OFF")
            if _version(connection) != VERSION:
                connection.execute("BEGIN IMMEDIATE")
                if _version(connection) != VERSION:  # another process may have made it before this one had the lock
                    _make_tables(connection)
                connection.execute("COMMIT")
            yield connection
        finally:
            connection.close()

    def _update(self, connection: sqlite3.Connection) -> None:
        try:
            stamp = os.stat(self.modules).st_mtime_ns
        except FileNotFoundError:
            stamp = -1
        seen = connection.execute("SELECT value FROM state WHERE name = 'stamp'").fetchone()
        if seen is not None and seen[0] == stamp:
            return
        there = self._listing()
        known = dict(connection.execute("SELECT id, inode FROM modules").fetchall())
        gone = [name for name in known if name not in there]
        new = [name for name, inode in there.items() if known.get(name) != inode]
        rows = [row for name in new if (row := self._row(name, there[name])) is not None]
        # Time stamps are coarse: what changed just now may change again without a new one.
        settled = stamp if stamp >= 0 and time.time_ns() - stamp > _SETTLED_NS else None
        if not gone and not rows and (settled is None or (seen is not None and seen[0] == settled)):
            return
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM modules WHERE id = ?", [(name,) for name in gone])
        connection.executemany(f"INSERT OR REPLACE INTO modules VALUES ({', '.join('?' * 11)})", rows)
        connection.execute("INSERT OR REPLACE INTO state VALUES ('stamp', ?)", (settled,))
        connection.execute("COMMIT")

    def _listing(self) -> dict[str, int]:
        """Name -> inode of every folder; links are passed by, and so are what is hidden and names that are no text."""
        try:
            with os.scandir(self.modules) as found:
                return {
                    item.name: item.inode()
                    for item in found
                    if not item.name.startswith(".") and is_text(item.name) and item.is_dir(follow_symlinks=False)
                }
        except FileNotFoundError:
            return {}

    def _row(self, name: str, inode: int) -> tuple | None:
        """The row of a module; None if it was removed meanwhile. A broken card must not hide the others."""
        folder = self.modules / name
        try:
            record = Record.from_folder(folder, check_id(name))
        except (ZooError, OSError) as error:
            if not folder.is_dir():
                return None
            return (name, inode, *(None for _ in _COLUMNS), None, str(error))
        card = record.card
        return (name, inode, *(getattr(card, column) for column in _COLUMNS), record.to_text(), None)


def _version(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def _make_tables(connection: sqlite3.Connection) -> None:
    for name in ("modules", "state"):
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    for statement in filter(str.strip, _TABLE.split(";")):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def cached_path(zoo: Path) -> Path:
    """Where a zoo that must not be written to has its catalogue, by its full path: in the platform's cache."""
    import hashlib

    import platformdirs

    key = hashlib.sha256(str(zoo.resolve()).encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("transfer", appauthor=False)) / "zoos" / key / "catalog.sqlite"
