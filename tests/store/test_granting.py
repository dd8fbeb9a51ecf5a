"""When does the ledger itself draw on blocks, fill them and give them back, on a real file?"""

from __future__ import annotations

import asyncio
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid.store.draws import logs_beside
from hybrid.store.ledger import Balance, Ledger, Recovery
from hybrid.store.records import Reserved
from tests.store.ledgers import rows_of
from tests.store.test_escrow import BOOT, CENT, EVER, OTHER_BOOT, wish
from tests.store.test_money import START


def ledger_on(path: Path, boot_id: str | None, *, idle_s: float = 10.0) -> Ledger:
    """A ledger with an escrow."""
    return Ledger(path, clock=lambda: START, has_escrow=True, boot_id=boot_id, idle_s=idle_s)


async def reopened(path: Path, boot_id: str | None) -> tuple[Recovery, Balance]:
    """Start a ledger on a file, and say what it found and where the money stands."""
    ledger = ledger_on(path, boot_id)
    try:
        return await ledger.start(), await ledger.balance(EVER)
    finally:
        await ledger.aclose()


def copied(path: Path, folder: Path) -> Path:
    """The files as they are now: what a disk holds that was waited for, or a machine that goes on."""
    folder.mkdir()
    for name in (path.name, f"{path.name}-wal", *(log.path.name for log in logs_beside(path))):
        shutil.copy(path.with_name(name), folder / name)
    return folder / path.name


@pytest.mark.parametrize(
    ("boot_id", "charged_usd"),
    [
        pytest.param(BOOT, Decimal(0), id="same-boot"),
        pytest.param(OTHER_BOOT, Decimal("0.64"), id="another-boot"),
        pytest.param(None, Decimal("0.64"), id="unknown-boot"),
    ],
)
def test_the_block_stands_in_for_what_a_power_cut_took(tmp_path, boot_id, charged_usd):
    """The file as the disk last had it lacks ten calls; their block is charged where the boot is another, once."""
    path = tmp_path / "hybrid.sqlite3"

    async def live() -> tuple[Path, Path]:
        ledger = ledger_on(path, BOOT)
        await ledger.start()
        await ledger.reserve(wish("first"))
        on_disk = copied(path, tmp_path / "disk")
        for number in range(10):
            assert Reserved(CENT) == await ledger.reserve(wish(f"r{number}"))
        in_memory = copied(path, tmp_path / "memory")
        await ledger.flush()
        [block] = rows_of(path, "escrow")
        assert 54 * 10_000_000 == block["left_nusd"]
        await ledger.aclose()
        assert [] == rows_of(path, "escrow")
        return on_disk, in_memory

    on_disk, in_memory = asyncio.run(live())
    # The process that reserved is this one and lives, so what the file has of its calls stays open.
    expected = Balance(spent_usd=charged_usd, reserved_usd=CENT)
    assert (Recovery(0, 0, Decimal(0), charged_usd), expected) == asyncio.run(reopened(on_disk, boot_id))
    _, balance = asyncio.run(reopened(on_disk, boot_id))
    assert charged_usd == balance.spent_usd
    expected = Balance(reserved_usd=11 * CENT)
    assert (Recovery(0, 0, Decimal(0)), expected) == asyncio.run(reopened(in_memory, BOOT))


def test_without_a_boot_id_nothing_is_set_aside(tmp_path):
    """Where a power cut cannot be told from a death, each reservation waits for the disk."""
    path = tmp_path / "hybrid.sqlite3"

    async def live() -> None:
        ledger = ledger_on(path, None)
        await ledger.start()
        for number in range(3):
            await ledger.reserve(wish(f"r{number}"))
        assert [] == rows_of(path, "escrow")
        await ledger.aclose()

    asyncio.run(live())


def test_a_block_is_filled_ahead_and_given_back_idle(tmp_path):
    """Four hundred calls in a row find money set aside, and soon after the last of them none is any more."""
    path = tmp_path / "hybrid.sqlite3"

    async def live() -> None:
        ledger = ledger_on(path, BOOT, idle_s=0.2)
        await ledger.start()
        for number in range(400):
            assert Reserved(CENT) == await ledger.reserve(wish(f"r{number}"))
            await ledger.flush()
            [block] = rows_of(path, "escrow")
            assert 31 * 10_000_000 <= block["left_nusd"]
        while rows_of(path, "escrow"):  # noqa: ASYNC110 - the test's own time limit bounds it
            await asyncio.sleep(0.01)
        assert Reserved(CENT) == await ledger.reserve(wish("again"))
        assert 1 == len(rows_of(path, "escrow"))
        await ledger.aclose()

    asyncio.run(live())


def test_processes_share_the_blocks(tmp_path):
    """Two ledgers on one file draw on one block; one that begins or ends takes nothing from the other but a wait."""
    path = tmp_path / "hybrid.sqlite3"

    async def live() -> None:
        one, other = ledger_on(path, BOOT), ledger_on(path, BOOT)
        await one.start()
        await one.reserve(wish("a"))
        assert Recovery(0, 0, Decimal(0)) == await other.start()
        assert [] == rows_of(path, "escrow")
        await other.reserve(wish("b"))
        assert Reserved(CENT) == await one.reserve(wish("c"))
        [block] = rows_of(path, "escrow")
        assert 63 * 10_000_000 == block["left_nusd"]
        await other.aclose()
        assert Reserved(CENT) == await one.reserve(wish("d"))
        await one.aclose()

    asyncio.run(live())
