"""What does `hybrid report` print: what was answered where since a moment, what it cost, and what it saved?"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybrid.cli.ledger_path import ledger_path
from hybrid.cli.printable import printable
from hybrid.cli.promises import promise_lines
from hybrid.cli.report_money import money_facts, money_lines, read_money
from hybrid.store.labels import KeptStanding, read_standings
from hybrid.store.reports import Group, GroupBy, Report, read_report
from hybrid.types import Json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_SPAN = re.compile(r"([0-9]{1,6})([mhdw])")
_SPAN_UNIT = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_PIPE_COLUMNS = 200

DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="The folder of the ledger; default: HYBRID_DATA_DIR or your own."),
]


@app.command()
def report(
    since: Annotated[
        str, typer.Option(metavar="SPAN", help="How far back: 30m, 12h, 7d, 4w, a date like 2026-01-31, or all.")
    ] = "7d",
    by: Annotated[GroupBy, typer.Option(help="What to group by; a day is one of this machine's time zone.")] = "day",
    tag: Annotated[str | None, typer.Option(help="Only requests sent with this x-hybrid-tag, in any case.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,  # noqa: FBT002
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the groups as CSV for spreadsheets.")] = False,  # noqa: FBT002
    config_path: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="hybrid.toml whose budgets are told; as for serve.")
    ] = None,
    data_dir_option: DataDirOption = None,
) -> None:
    """Say what was answered where, and what it cost, saved and will cost. Works while a server runs."""
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv", param_hint="--csv")
    path = ledger_path(data_dir_option)
    now = datetime.now(UTC)
    start = _start(since, now)
    found = read_report(path, since=start, by=by, tag=tag)
    if found is None:
        print(f"no ledger at {path} yet: nothing was served", file=sys.stderr)
    money = read_money(path, since=start, tag=tag, now=now, config_path=config_path)
    facts, standings = found or Report(), () if found is None else read_standings(path)
    if as_csv:
        _write_csv(facts.groups, by)
    elif as_json:
        # "number": money keeps its exact digits and is still a number to whoever reads it.
        encoder = msgspec.json.Encoder(decimal_format="number")
        told = {**_facts(facts, standings, since=start, by=by, tag=tag), **money_facts(money)}
        print(msgspec.json.format(encoder.encode(told)).decode())
    elif found is not None:
        # Into a pipe nothing is folded or cut: whoever reads it there has no window's width.
        width = None if sys.stdout.isatty() else _PIPE_COLUMNS
        console = Console(highlight=False, width=width)
        _print(console, facts, since=start, tag=tag)
        for line in (*(f"  {line}" for line in money_lines(money, facts.spent_usd)), *promise_lines(standings)):
            console.print(line, markup=False, soft_wrap=True)
        if facts.groups:
            console.print()
            console.print(_table(facts.groups, by))


def _start(since: str, now: datetime) -> datetime | None:
    """The moment a `--since` means; None for all of time.

    Raises: typer.BadParameter, which ends the command with exit code 2.
    """
    if since == "all":
        return None
    if span := _SPAN.fullmatch(since):
        try:
            return now - int(span[1]) * _SPAN_UNIT[span[2]]
        except OverflowError:
            return None
    try:
        # A date or time without a zone is meant as the clock on the wall shows it.
        return datetime.fromisoformat(since).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{since!r} is no span; use a number and m, h, d or w (7d), a date (2026-01-31), or all",
            param_hint="--since",
        ) from None


def _facts(
    facts: Report, standings: Sequence[KeptStanding], *, since: datetime | None, by: GroupBy, tag: str | None
) -> dict[str, Json]:
    return {
        "since": None if since is None else since.isoformat(),
        "tag": tag,
        "requests": facts.requests,
        "routes": facts.routes,
        "outcomes": facts.outcomes,
        "reasons": facts.reasons,
        "tokens": _tokens(facts),
        "spent_usd": facts.spent_usd,
        "reserved_usd": facts.reserved_usd,
        "saved_usd": facts.saved_usd,
        "hedges": facts.hedges,
        "double_usd": facts.double_usd,
        "audits": {"answers": facts.audits, "spent_usd": facts.audits_usd},
        "promise_uncovered": facts.uncovered,
        "power_cut_usd": facts.power_cut_usd,
        "promises": [{"task": one.task, "at": one.at.isoformat(), **one.facts} for one in standings],
        "by": by,
        "groups": [_group_facts(group) for group in facts.groups],
    }


def _group_facts(group: Group) -> dict[str, Json]:
    return {
        "key": group.key,
        "requests": group.requests,
        "routes": {"local": group.local, "cloud": group.cloud, "cache": group.cache},
        "tokens": _tokens(group),
        "spent_usd": group.spent_usd,
        "saved_usd": group.saved_usd,
    }


def _tokens(sums: Report | Group) -> dict[str, int]:
    return {
        "local_prompt": sums.local_prompt_tokens,
        "local_completion": sums.local_completion_tokens,
        "cloud_prompt": sums.cloud_prompt_tokens,
        "cloud_completion": sums.cloud_completion_tokens,
    }


def _print(console: Console, facts: Report, *, since: datetime | None, tag: str | None) -> None:
    span = "ever" if since is None else f"since {since.astimezone():%Y-%m-%d %H:%M}"
    scope = "" if tag is None else f", tag {printable(tag)}"
    console.print(f"{facts.requests} requests {span}{scope}", markup=False)
    console.print(f"  answered   {_counts(facts.routes, facts.requests)}", markup=False)
    console.print(f"  outcome    {_counts(facts.outcomes, facts.requests)}", markup=False)
    console.print(f"  reason     {_counts(facts.reasons, facts.requests)}", markup=False)
    console.print(
        f"  tokens     local {facts.local_prompt_tokens:,} prompt + {facts.local_completion_tokens:,} answer, "
        f"cloud {facts.cloud_prompt_tokens:,} prompt + {facts.cloud_completion_tokens:,} answer"
    )
    console.print(
        f"  money      spent ${_shown(facts.spent_usd)}, saved ${_shown(facts.saved_usd)}, "
        f"set aside now ${_shown(facts.reserved_usd)}"
    )
    if facts.power_cut_usd:
        console.print(
            f"  power cut  ${_shown(facts.power_cut_usd)} of the spend: charged for calls that the ledger may have lost"
        )
    if facts.hedges:
        console.print(
            f"  hedged     {_counts(facts.hedges, facts.requests)}, ${_shown(facts.double_usd)} paid where local won",
            markup=False,
        )
    if facts.uncovered:
        console.print(
            f"  uncovered  doubted drafts that no promise holds for stayed local: "
            f"{_counts(facts.uncovered, facts.requests)}",
            markup=False,
        )
    if facts.audits or facts.audits_usd:
        console.print(f"  audits     {facts.audits} local answers compared, ${_shown(facts.audits_usd)} of the spend")


def _counts(counts: Mapping[str, int], total: int) -> str:
    parts = [f"{printable(name)} {count} ({count / total:.0%})" for name, count in counts.items() if count]
    return ", ".join(parts) or "-"


def _shown(amount_usd: Decimal) -> str:
    """USD to a ten-thousandth of a cent, for people; `--json` has every digit."""
    return f"{amount_usd:.6f}"


def _write_csv(groups: tuple[Group, ...], by: GroupBy) -> None:
    """One row a group, the first one names the columns; money has every digit."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    counts = ("requests", "local", "cloud", "cache")
    tokens = ("local_prompt_tokens", "local_completion_tokens", "cloud_prompt_tokens", "cloud_completion_tokens")
    columns = (*counts, *tokens, "spent_usd", "saved_usd")
    writer.writerow((by, *columns))
    for group in groups:
        values = (getattr(group, column) for column in columns)
        writer.writerow(("" if group.key is None else _cell(group.key), *map(str, values)))


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula: a client wrote it."""
    shown = printable(text)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown


def _table(groups: tuple[Group, ...], by: GroupBy) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    # A long name is folded where the window is narrow; a figure is never cut.
    table.add_column(by, overflow="fold", min_width=8)
    for heading in ("requests", "local", "cloud", "cache", "local tok", "cloud tok", "spent $", "saved $"):
        table.add_column(heading, justify="right", no_wrap=True)
    for group in groups:
        table.add_row(
            Text(printable(group.key) if group.key is not None else "-"),
            *(f"{count:,}" for count in (group.requests, group.local, group.cloud, group.cache)),
            f"{group.local_prompt_tokens + group.local_completion_tokens:,}",
            f"{group.cloud_prompt_tokens + group.cloud_completion_tokens:,}",
            _shown(group.spent_usd),
            _shown(group.saved_usd),
        )
    return table
