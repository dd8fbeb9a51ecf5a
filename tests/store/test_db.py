"""Is the store's file opened only when it is ours, and brought to our schema exactly once?"""

from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.errors import StoreError
from hybrid.store.db import connect_reader, connect_writer, from_us, to_us
from hybrid.store.migrations import MIGRATIONS, Migration


def schema_of(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """All there is in a database, by name and definition."""
    return [tuple(row) for row in connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name")]


def steps_of(connection: sqlite3.Connection) -> list[str]:
    """The names of the applied migrations, in order."""
    return [row["name"] for row in connection.execute("SELECT name FROM migrations ORDER BY number")]


def test_a_new_store_gets_every_step_in_order(tmp_path):
    """Opening where nothing is makes the folder and the file and applies all migrations, each recorded once."""
    with closing(connect_writer(tmp_path / "new" / "hybrid.sqlite3")) as connection:
        assert [step.name for step in MIGRATIONS] == steps_of(connection)


def test_names_of_steps_count_up():
    """Migrations are named m001_, m002_, ... in their order, so that two of them cannot swap places."""
    assert [f"m{number:03d}_" for number in range(1, len(MIGRATIONS) + 1)] == [step.name[:5] for step in MIGRATIONS]


@pytest.mark.parametrize("steps", range(1, len(MIGRATIONS) + 1))
def test_every_older_schema_becomes_the_newest(tmp_path, steps):
    """A store of any earlier version, the oldest included, ends up with the same schema as a new one."""
    with closing(connect_writer(tmp_path / "old.sqlite3", MIGRATIONS[:steps])) as connection:
        assert steps == len(steps_of(connection))
    with (
        closing(connect_writer(tmp_path / "old.sqlite3")) as upgraded,
        closing(connect_writer(tmp_path / "new.sqlite3")) as new,
    ):
        assert schema_of(new) == schema_of(upgraded)


def test_opening_again_applies_nothing(tmp_path):
    """A second opening finds every step done."""
    for _ in range(2):
        with closing(connect_writer(tmp_path / "hybrid.sqlite3")) as connection:
            assert len(MIGRATIONS) == len(steps_of(connection))


def test_a_failing_step_leaves_no_trace(tmp_path):
    """A migration whose second statement fails undoes its first, and the steps before it stay."""
    broken = Migration(f"m{len(MIGRATIONS) + 1:03d}_broken", ("CREATE TABLE half (a)", "CREATE TABLE requests (a)"))
    with pytest.raises(StoreError, match="already exists"):
        connect_writer(tmp_path / "hybrid.sqlite3", (*MIGRATIONS, broken))
    with closing(connect_writer(tmp_path / "hybrid.sqlite3")) as connection:
        assert "half" not in [name for name, _ in schema_of(connection)]
        assert [step.name for step in MIGRATIONS] == steps_of(connection)


def test_a_newer_schema_is_refused(tmp_path):
    """A store with a step we do not know is not touched; the error says to upgrade."""
    newer = Migration("m999_from_the_future", ("CREATE TABLE future (a)",))
    connect_writer(tmp_path / "hybrid.sqlite3", (*MIGRATIONS, newer)).close()
    for connect in (connect_writer, connect_reader):
        with pytest.raises(StoreError, match=r"m999_from_the_future.*upgrade hybrid"):
            connect(tmp_path / "hybrid.sqlite3")


def test_a_reader_does_not_migrate(tmp_path):
    """A report on an older store says to start the server once and changes nothing."""
    connect_writer(tmp_path / "hybrid.sqlite3", MIGRATIONS[:1]).close()
    with pytest.raises(StoreError, match="older hybrid"):
        connect_reader(tmp_path / "hybrid.sqlite3")


def test_many_at_once_make_one_store(tmp_path):
    """Openers racing for a new file all succeed, and each step is applied once."""
    path, barrier, failures = tmp_path / "hybrid.sqlite3", threading.Barrier(8), []

    def open_it() -> None:
        barrier.wait()
        try:
            connect_writer(path).close()
        except StoreError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures
    with closing(connect_writer(path)) as connection:
        assert len(MIGRATIONS) == len(steps_of(connection))


def test_only_the_owner_may_read(tmp_path):
    """The file and its companions are readable by their owner alone."""
    with closing(connect_writer(tmp_path / "hybrid.sqlite3")) as connection:
        connection.execute("INSERT INTO owners (pid, process_started_s, opened_at_us) VALUES (1, 1, 1)")
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert {0o600} == modes


def corrupt(path: Path) -> None:
    """A store whose header is right and whose pages are noise."""
    connect_writer(path).close()
    data = bytearray(path.read_bytes())
    data[100:] = b"\xa5" * (len(data) - 100)
    path.write_bytes(data)


def foreign(path: Path) -> None:
    """Somebody else's database."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (title)")


@pytest.mark.parametrize("connect", [connect_writer, connect_reader])
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(lambda path: path.write_text("not a database, " * 100), "not a hybrid ledger", id="text"),
        pytest.param(corrupt, "damaged", id="corrupt"),
        pytest.param(foreign, "another program's", id="foreign"),
        pytest.param(lambda path: path.mkdir(), "cannot (open|read)", id="a-folder"),
    ],
)
def test_what_is_not_ours_is_refused(tmp_path, connect, spoil, expected):
    """A file that is not a usable ledger of ours is refused in words that name it and say what to do."""
    path = tmp_path / "hybrid.sqlite3"
    spoil(path)
    with pytest.raises(StoreError, match=expected) as caught:
        connect(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(Path("/proc/hybrid/hybrid.sqlite3"), id="folder-cannot-be-made"),
        pytest.param(Path("/dev/null/hybrid.sqlite3"), id="folder-is-a-file"),
    ],
)
def test_where_nothing_can_be_written(path):
    """A place that takes no file is a StoreError that names it (permissions would not stop a test run by root)."""
    with pytest.raises(StoreError, match="cannot open"):
        connect_writer(path)


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_nothing_to_read_yet(tmp_path, content):
    """A reader tells "nothing yet" apart from a failure, and makes no file."""
    path = tmp_path / "hybrid.sqlite3"
    if content is not None:
        path.write_bytes(content)
    assert connect_reader(path) is None
    assert (content is not None) == path.exists()


def test_a_reader_cannot_write(tmp_path):
    """The reading connection refuses to change anything."""
    connect_writer(tmp_path / "hybrid.sqlite3").close()
    with (
        closing(connect_reader(tmp_path / "hybrid.sqlite3")) as reader,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        reader.execute("DELETE FROM requests")


@given(
    moment=st.datetimes(
        min_value=datetime(1971, 1, 1),  # noqa: DTZ001
        max_value=datetime(2200, 1, 1),  # noqa: DTZ001
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-8))]),
    )
)
def test_times_survive(moment):
    """A time comes back as the same instant, to the microsecond."""
    assert moment == from_us(to_us(moment))


def test_a_time_without_zone_is_refused():
    """A naive time is never stored: nobody could say later which instant it was."""
    with pytest.raises(ValueError, match="zone"):
        to_us(datetime(2026, 1, 1))  # noqa: DTZ001
