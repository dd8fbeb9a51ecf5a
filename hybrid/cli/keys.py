"""What does `hybrid keys` do: make a client key and show it once, say what each may do, change that, revoke one?"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer

from hybrid.cli.ledger_path import ledger_path
from hybrid.errors import CommandError
from hybrid.store.keys import ClientKey, ClientKeys
from hybrid.types import Json, KeyRules

app = typer.Typer(
    help="Add, list, change and revoke client API keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

T = TypeVar("T")

_MODEL = re.compile(r"[!#-+\--\[\]-~]{1,200}")  # as in the configuration, less the comma that separates them
_MOST_USD = 1_000_000
_MOST = 1_000_000_000

NameArgument = Annotated[str, typer.Argument(help="What reports call the client: letters, digits, '.', '_' or '-'.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="The folder of the ledger; default: HYBRID_DATA_DIR or your own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DayOption = Annotated[str | None, typer.Option(metavar="USD", help="Most it may spend a day; none: no cap of its own.")]
MonthOption = Annotated[str | None, typer.Option(metavar="USD", help="Most it may spend a calendar month; or none.")]
RpmOption = Annotated[str | None, typer.Option(metavar="N", help="Requests in any minute; none: as many as it likes.")]
TpmOption = Annotated[
    str | None, typer.Option(metavar="N", help="Tokens, of prompt and answer, in any minute; or none.")
]
ConcurrencyOption = Annotated[str | None, typer.Option(metavar="N", help="Requests at once; or none.")]
ModelsOption = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Model names it may send, separated by commas; none: all.")
]
PrivateOption = Annotated[
    bool | None, typer.Option("--private/--no-private", help="Its requests never leave this machine.")
]


@app.command()
def add(
    name: NameArgument,
    usd_per_day: DayOption = None,
    usd_per_month: MonthOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    concurrency: ConcurrencyOption = None,
    models: ModelsOption = None,
    private: PrivateOption = None,
    data_dir_option: DataDirOption = None,
) -> None:
    """Make a key for a client and print it. It is shown this once and kept only as a hash."""
    rules = _changed(KeyRules(), usd_per_day, usd_per_month, rpm, tpm, concurrency, models, private=private)
    secret = _keys(data_dir_option).add(name, rules)
    print(secret)
    print(f"key {name!r} added ({_told(rules)}); this is the only time it is shown", file=sys.stderr)


@app.command("set")
def set_rules(
    name: NameArgument,
    usd_per_day: DayOption = None,
    usd_per_month: MonthOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    concurrency: ConcurrencyOption = None,
    models: ModelsOption = None,
    private: PrivateOption = None,
    data_dir_option: DataDirOption = None,
) -> None:
    """Change what a key may do; what is not named stays. Running servers follow within a second."""
    given = (usd_per_day, usd_per_month, rpm, tpm, concurrency, models)
    _changed(KeyRules(), *given, private=private)  # a wrong value is told before the ledger's file is touched
    rules = _keys(data_dir_option).change(name, lambda kept: _changed(kept, *given, private=private))
    print(f"key {name!r}: {_told(rules)}", file=sys.stderr)


@app.command("list")
def list_keys(data_dir_option: DataDirOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the keys there are and were, and what each may do; never their secrets."""
    keys = _keys(data_dir_option).list()
    if as_json:
        encoder = msgspec.json.Encoder(decimal_format="number")
        print(msgspec.json.format(encoder.encode([_facts(key) for key in keys])).decode())
        return
    width = max((len(key.name) for key in keys), default=0)
    for key in keys:
        state = f"valid; {_told(key.rules)}" if key.revoked_at is None else f"revoked {_shown(key.revoked_at)}"
        print(f"{key.name:<{width}}  added {_shown(key.created_at)}  {state}")
    if not keys:
        print("no keys; `hybrid keys add NAME` makes one", file=sys.stderr)


@app.command()
def revoke(name: NameArgument, data_dir_option: DataDirOption = None) -> None:
    """End a key's validity. Running servers refuse it within a second."""
    _keys(data_dir_option).revoke(name)
    print(f"key {name!r} revoked", file=sys.stderr)


def _changed(
    kept: KeyRules,
    usd_per_day: str | None,
    usd_per_month: str | None,
    rpm: str | None,
    tpm: str | None,
    concurrency: str | None,
    models: str | None,
    *,
    private: bool | None,
) -> KeyRules:
    """The rules with what was named on the command line. Raises: CommandError for a value that is none."""
    return KeyRules(
        usd_per_day=_pick("--usd-per-day", usd_per_day, _usd, kept.usd_per_day),
        usd_per_month=_pick("--usd-per-month", usd_per_month, _usd, kept.usd_per_month),
        requests_per_minute=_pick("--rpm", rpm, _count, kept.requests_per_minute),
        tokens_per_minute=_pick("--tpm", tpm, _count, kept.tokens_per_minute),
        concurrency=_pick("--concurrency", concurrency, _count, kept.concurrency),
        models=_pick("--models", models, _names, kept.models) or (),
        is_private=kept.is_private if private is None else private,
    )


def _pick(option: str, given: str | None, read: Callable[[str], T], kept: T | None) -> T | None:
    if given is None:
        return kept
    if given.strip().lower() == "none":
        return None
    try:
        return read(given.strip())
    except ValueError as wrong:
        raise CommandError(f"{option}: {wrong}; got {given!r}") from None


def _usd(text: str) -> Decimal:
    wanted = f"expected an amount in USD from 0 to {_MOST_USD}, to 9 decimal places, or none"
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError(wanted) from None
    if not (amount.is_finite() and 0 <= amount <= _MOST_USD and amount == amount.quantize(Decimal("1e-9"))):
        raise ValueError(wanted)
    return amount


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= _MOST):
        raise ValueError(f"expected a whole number from 1 to {_MOST}, or none")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(_MODEL.fullmatch(name) for name in names):
        raise ValueError("expected model names separated by commas, such as hybrid,local, or none")
    return names


def _told(rules: KeyRules) -> str:
    """What a key may do, for people."""
    counts = (
        (rules.requests_per_minute, "requests a minute"),
        (rules.tokens_per_minute, "tokens a minute"),
        (rules.concurrency, "at once"),
    )
    parts = [
        f"${usd:f} a {span}"
        for usd, span in ((rules.usd_per_day, "day"), (rules.usd_per_month, "month"))
        if usd is not None
    ]
    parts += [f"{count} {what}" for count, what in counts if count is not None]
    parts += [f"models {', '.join(rules.models)}"] if rules.models else []
    parts += ["local only"] if rules.is_private else []
    return "; ".join(parts) or "no limits of its own"


def _facts(key: ClientKey) -> dict[str, Json]:
    facts = {"name": key.name, "created_at": key.created_at, "revoked_at": key.revoked_at}
    return {**facts, **{name: getattr(key.rules, name) for name in KeyRules.__slots__}}


def _keys(folder: Path | None) -> ClientKeys:
    return ClientKeys(ledger_path(folder))


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
