"""What does `hybrid keys` do: make a client key and show it once, list the names, revoke one?"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from hybrid.config import data_dir
from hybrid.store.db import DATABASE_NAME
from hybrid.store.keys import ClientKeys

app = typer.Typer(
    help="Add, list and revoke client API keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

NameArgument = Annotated[str, typer.Argument(help="What reports call the client: letters, digits, '.', '_' or '-'.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="The folder of the ledger; default: HYBRID_DATA_DIR or your own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def add(name: NameArgument, data_dir_option: DataDirOption = None) -> None:
    """Make a key for a client and print it. It is shown this once and kept only as a hash."""
    secret = _keys(data_dir_option).add(name)
    print(secret)
    print(f"key {name!r} added; this is the only time it is shown", file=sys.stderr)


@app.command("list")
def list_keys(data_dir_option: DataDirOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the keys there are and were; never their secrets."""
    keys = _keys(data_dir_option).list()
    if as_json:
        facts = [{"name": key.name, "created_at": key.created_at, "revoked_at": key.revoked_at} for key in keys]
        print(msgspec.json.format(msgspec.json.encode(facts)).decode())
        return
    width = max((len(key.name) for key in keys), default=0)
    for key in keys:
        state = "valid" if key.revoked_at is None else f"revoked {_shown(key.revoked_at)}"
        print(f"{key.name:<{width}}  added {_shown(key.created_at)}  {state}")
    if not keys:
        print("no keys; `hybrid keys add NAME` makes one", file=sys.stderr)


@app.command()
def revoke(name: NameArgument, data_dir_option: DataDirOption = None) -> None:
    """End a key's validity. Running servers refuse it within a second."""
    _keys(data_dir_option).revoke(name)
    print(f"key {name!r} revoked", file=sys.stderr)


def _keys(folder: Path | None) -> ClientKeys:
    return ClientKeys((folder or data_dir()) / DATABASE_NAME)


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
