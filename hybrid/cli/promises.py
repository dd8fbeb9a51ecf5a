"""How does `hybrid report` tell what labels say of each promise? A line for what was seen, one for each alarm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hybrid.cli.printable import printable
from hybrid.store.labels import KeptStanding
from hybrid.types import Json


def promise_lines(standings: Sequence[KeptStanding]) -> Iterator[str]:
    """Say it, the latest first; nothing where nothing was ever labelled."""
    if standings:
        yield ""
        yield "promises, by labels since their calibration:"
    for one in standings:
        yield f"  {printable(one.task)}  {_state(one.facts)} ({one.at.astimezone():%Y-%m-%d %H:%M})"
        yield f"    {_seen(one.facts)}"
        for alarm in one.facts.get("alarms") or ():
            yield f"    alarm: {printable(str(alarm))}"
        if why := one.facts.get("why"):
            yield f"    {printable(str(why))}"


def _state(facts: Mapping[str, Json]) -> str:
    threshold = facts.get("threshold")
    if not facts.get("alarms"):
        return "holds: nothing speaks against it"
    if threshold is None:
        return "WITHDRAWN: no threshold is certified now"
    return f"TIGHTENED to {threshold:.4f} (calibrated: {facts.get('calibrated_threshold')})"


def _seen(facts: Mapping[str, Json]) -> str:
    rows = facts.get("rows") or 0
    parts = [f"{facts.get('labels')} labels"]
    if rows:
        parts.append(
            f"sampled regret {facts['regretted']} of {rows} (90 % between {facts['regret_low']:.3f} and "
            f"{facts['regret_high']:.3f}, wanted <= {facts['max_regret']:g})"
        )
    else:
        parts.append("none of accepted answers: policy.audit_share is 0, or too few came")
    if stated := facts.get("stated"):
        parts.append(f"ECE {stated['ece']:.3f} +- {stated['error']:.3f}, chance alone {stated['floor']:.3f}")
    if facts.get("psi") is not None:
        parts.append(f"PSI {facts['psi']:.2f} ({printable(str(facts['psi_of']))})")
    return ", ".join(parts)
