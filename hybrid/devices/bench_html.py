"""How does a bench look to a person? One HTML page that needs nothing else: no script, no font, no address."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from hybrid.devices.bench import BenchedModel, BenchReport, Roofed
from hybrid.devices.bench_style import STYLE
from hybrid.devices.bench_svg import Ceiling, Point, Series, chart, plain, roofline, si
from hybrid.devices.machine import MachineSpeed
from hybrid.devices.speed import Figure


def page(report: BenchReport) -> str:
    """Write the page. Every text that is not ours (names of models, of the processor, errors) is escaped."""
    title = f"hybrid bench: {report.hardware.get('cpu', 'this machine')}"
    sections = [
        _next(report),
        *(_model(model, number) for number, model in enumerate(report.models)),
        _roofline(report),
        _curves(report),
        _machine(report.machine) if report.machine is not None else "",
        _about(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{_head(report)}\n{_tiles(report)}\n" + "\n".join(filter(None, sections)) + "\n</main>\n</body>\n</html>\n"
    )


def _head(report: BenchReport) -> str:
    hardware = report.hardware
    kind = "quick measurement" if report.is_quick else "full measurement"
    return (
        f"<h1>{escape(hardware.get('cpu', 'This machine'))}</h1>\n"
        f'<p class="soft">{escape(hardware["cores"])} cores, {escape(hardware["memory_gib"])} GiB of memory, '
        f"{kind} of {escape(report.measured_at)}</p>"
    )


def _tiles(report: BenchReport) -> str:
    tiles = []
    machine = report.machine
    if machine is not None:
        tiles.append((f"{machine.read_bytes_s / 1e9:.3g} GB/s", "memory, read"))
        if machine.int8_ops_s:
            tiles.append((f"{si(machine.int8_ops_s)}op/s", "int8, all cores"))
        if machine.fp32_ops_s:
            tiles.append((f"{si(machine.fp32_ops_s)}op/s", "fp32, all cores"))
    fastest = max(
        report.models, key=lambda model: max(map(_median, model.speed.decode_tok_s.values()), default=0), default=None
    )
    if fastest is not None and fastest.speed.decode_tok_s:
        best = max(map(_median, fastest.speed.decode_tok_s.values()))
        tiles.append((f"{_three(best)} tok/s", f"most tokens in all: {fastest.speed.name}"))
        if fastest.speed.ttft_s is not None:
            tiles.append((f"{fastest.speed.ttft_s.median:.3g} s", "its first token after 175"))
    inside = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span class="soft small">{escape(what)}</span></div>'
        for value, what in tiles
    )
    return f'<div class="tiles">{inside}</div>' if inside else ""


def _next(report: BenchReport) -> str:
    sentences = (*report.notes, *report.advice)
    if not sentences:
        return ""
    items = "\n".join(f"<li>{_with_code(sentence)}</li>" for sentence in sentences)
    return f'<section class="next"><h2>What to do next</h2>\n<ul>{items}</ul></section>'


def _with_code(sentence: str) -> str:
    """Escape a sentence; what stands between backquotes is a command or a name."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(sentence))


def _model(model: BenchedModel, number: int) -> str:
    speed = model.speed
    facts = [f"{speed.file_bytes / 1e6:,.0f} MB", model.quantisation or "", f"{speed.threads} threads, {speed.device}"]
    if speed.ttft_s is not None:
        facts.append(f"first token after 175 tokens in {_spread(speed.ttft_s)} s")
    facts.append(f"loads in {speed.load_s:.1f} s")
    if speed.rss_bytes is not None:
        facts.append(f"at most {speed.rss_bytes / 1e6:,.0f} MB of memory")
    rows = [
        *_rows("Prompt of {} tokens", speed.prefill_tok_s, model.prefill_roof, speed.prefill_tok_j),
        *_rows("{} chat{} at once", speed.decode_tok_s, model.decode_roof, speed.decode_tok_j, each=True),
    ]
    has_energy = bool(speed.decode_tok_j or speed.prefill_tok_j)
    heads = [
        "",
        "tokens a second",
        "predicted",
        "each",
        "of the roof",
        "limited by",
        *(["tokens a joule"] if has_energy else []),
    ]
    body = "\n".join(_row(row if has_energy else row[:-1]) for row in rows)
    rest = [*speed.left_out, *([f"no roof: {model.roof_note}"] if model.roof_note else [])]
    told = [f"Left out: {'; '.join(rest)}."] if rest else []
    told += [] if has_energy else [f"Energy is unknown: {speed.power}."]
    notes = "".join(f'<p class="soft small note">{escape(what)}</p>' for what in told)
    threads = _threads(model)
    return (
        f'<section><h2><span class="s{number % 6}">&#9679;</span> {escape(speed.name)}</h2>\n'
        f'<p class="soft">{escape(", ".join(filter(None, facts)))}</p>\n<div class="scroll"><table>\n'
        f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>\n{body}\n</table></div>\n{threads}{notes}</section>"
    )


def _rows(
    what: str, figures: dict[int, Figure], roofs: dict[int, Roofed], per_joule: dict[int, float], *, each: bool = False
) -> Iterator[list[str]]:
    for count, figure in figures.items():
        roof = roofs.get(count)
        share, limit, predicted = "-", "-", "-"
        if roof is not None:
            width = max(0.0, min(100.0, 100 * roof.share))
            share = f'{100 * roof.share:.0f} %<span class="bar"><i style="width: {width:.0f}%"></i></span>'
            limit = "memory" if roof.limit == "bandwidth" else "arithmetic"
            predicted = "-" if roof.predicted_tok_s is None else _three(roof.predicted_tok_s)
        yield [
            what.format(f"{count:,}", "s" if count > 1 else ""),
            _spread(figure, small=True),
            predicted,
            _three(figure.median / count) if each else "",
            share,
            limit,
            _three(per_joule[count]) if count in per_joule else "-",
        ]


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _threads(model: BenchedModel) -> str:
    told = [
        f"{one.threads} thread{'s' if one.threads > 1 else ''}: prefill {_three(one.prefill_tok_s.median)}, decode "
        f"{_three(one.decode_tok_s.median)}{' (best)' if one.threads == model.speed.best_threads else ''}"
        for one in model.speed.by_threads
    ]
    return f'<p class="small">{escape("; ".join(told))}</p>' if len(told) > 1 else ""


def _roofline(report: BenchReport) -> str:
    machine = report.machine
    if machine is None:
        return ""
    series = []
    for number, model in enumerate(report.models):
        for kind, roofs, figures in (
            ("decode", model.decode_roof, model.speed.decode_tok_s),
            ("prefill", model.prefill_roof, model.speed.prefill_tok_s),
        ):
            # Beyond a batch a longer prompt has the same place.
            placed = {roof.ops_per_byte: (count, roof) for count, roof in reversed(roofs.items())}
            points = [_place(roof, figures[count], count) for count, roof in reversed(placed.values())]
            name = f"{model.speed.name}, {kind}"
            series.append(Series(name, points, number, is_hollow=kind == "prefill", is_joined=kind == "decode"))
    ceilings = [Ceiling(f"memory {machine.read_bytes_s / 1e9:.3g} GB/s", slope=machine.read_bytes_s)]
    for what, ops_s in (("int8", machine.int8_ops_s), ("fp32", machine.fp32_ops_s)):
        if ops_s:
            ceilings.append(Ceiling(f"{what} {si(ops_s)}op/s", height=ops_s))
    drawing = roofline(
        series,
        ceilings,
        title="Operations a second against operations for each byte read",
        x_label="operations for each byte of weights and cache that is read",
        y_label="operations a second",
    )
    if not drawing:
        return ""
    return (
        "<section><h2>Under the roof</h2>\n"
        '<p class="soft">Nothing can be above the lines: on the left memory delivers no faster, on the right the cores '
        "compute no faster. Far below both, the format or the software is what holds a model back. Numbers are chats "
        f"decoded together, or tokens of a prompt.</p>\n{_legend(series)}\n{drawing}</section>"
    )


def _place(roof: Roofed, figure: Figure, count: int) -> Point:
    scale = roof.ops_s / figure.median
    return Point(roof.ops_per_byte, roof.ops_s, figure.low * scale, figure.high * scale, str(count))


def _curves(report: BenchReport) -> str:
    decode = [
        Series(model.speed.name, _points(model.speed.decode_tok_s), number)
        for number, model in enumerate(report.models)
    ]
    prefill = [
        Series(model.speed.name, _points(model.speed.prefill_tok_s), number)
        for number, model in enumerate(report.models)
    ]
    drawn = [
        (
            "Several chats at once",
            "All their tokens together. Where the line stops rising, more slots only make each answer slower.",
            decode,
            chart(decode, title="Tokens a second by chats at once", x_label="chats at once", y_label="tokens a second"),
        ),
        (
            "Reading a prompt",
            "A longer prompt is read at another speed than a short one; the first token waits for all of it.",
            prefill,
            chart(
                prefill,
                title="Prompt tokens a second by length",
                x_label="tokens of the prompt",
                y_label="tokens a second",
            ),
        ),
    ]
    inside = "\n".join(
        f'<section><h2>{title}</h2>\n<p class="soft small">{what}</p>\n{_legend(series)}\n{drawing}</section>'
        for title, what, series, drawing in drawn
        if drawing
    )
    return f'<div class="two">{inside}</div>' if inside else ""


def _points(figures: dict[int, Figure]) -> list[Point]:
    return [Point(count, one.median, one.low, one.high) for count, one in figures.items()]


def _legend(series: Iterable[Series]) -> str:
    items = "".join(
        f'<span><i class="s{one.colour % 6}{" hollow" if one.is_hollow else ""}"></i>{escape(one.name)}</span>'
        for one in series
        if one.points
    )
    return f'<div class="legend">{items}</div>'


def _machine(machine: MachineSpeed) -> str:
    memory = "\n".join(
        _row(
            [
                f"{one.threads} thread{'s' if one.threads > 1 else ''}",
                *(_spread(kind, 1e9, small=True) for kind in (one.read_bytes_s, one.copy_bytes_s, one.triad_bytes_s)),
            ]
        )
        for one in machine.bandwidth
    )
    peaks = "\n".join(
        _row(
            [
                f"{number}, {escape(peak.version)}",
                _spread(peak.one_core_ops_s, 1e9, small=True),
                _spread(peak.all_cores_ops_s, 1e9, small=True),
            ]
        )
        for number, found in (("fp32", machine.fp32), ("int8", machine.int8))
        for peak in found
    )
    points = [
        Point(max(one.working_set_bytes / 1024, 1), one.latency_ns, one.latency_ns, one.latency_ns)
        for one in machine.latency
        if (one.working_set_bytes // 4096).bit_count() == 1
    ]
    edges = ", ".join(f"{plain(size / 1024)} KiB" for size in machine.cache_bytes) or "none seen"
    latency = chart(
        [Series("a load", points, 0)], title="Latency by working set", x_label="working set, KiB", y_label="nanoseconds"
    )
    return (
        '<div class="two">\n<section><h2>Memory and arithmetic</h2>\n<div class="scroll"><table>'
        f"<tr><th>GB/s</th><th>read</th><th>copy</th><th>triad</th></tr>\n{memory}\n</table></div>\n"
        '<div class="scroll"><table><tr><th>Gop/s</th><th>one core</th><th>all cores</th></tr>\n'
        f'{peaks}\n</table></div></section>\n<section><h2>How long one load takes</h2>\n<p class="soft small">At '
        f"random places, each waiting for the one before. Steps are the ends of the caches, near {edges}.</p>\n"
        f"{latency}</section>\n</div>"
    )


def _about(report: BenchReport) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))
    return (
        '<section class="small soft"><h2>How it was measured</h2><p>Medians, with the least and the most seen, of '
        f"samples taken in rounds over {report.measured_s:,.0f} s, each model in a process of its own. Decoding begins "
        "with a filled cache and draws no tokens. The roof of a model is the bytes and operations of its file against "
        f"the machine's read bandwidth and peak.</p><p>{escape(versions)}; hardware "
        f"{escape(report.hardware_fingerprint)}.</p></section>"
    )


def _spread(figure: Figure, unit: float = 1.0, *, small: bool = False) -> str:
    median, low, high = (_three(value / unit) for value in (figure.median, figure.low, figure.high))
    return f"{median} <small>{low}&#8211;{high}</small>" if small else f"{median} ({low} to {high})"


def _three(value: float) -> str:
    """Three digits, or all before the point where there are more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _median(figure: Figure) -> float:
    return figure.median
