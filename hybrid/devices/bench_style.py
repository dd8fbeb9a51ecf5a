"""How does the page of a bench look, by day and by night?"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f27; --soft: #5d6675; --grid: #e3e6ec;
  --edge: #dfe3ea; --roof: #6a7280; --mark: #2f6fdb;
  --s0: #2f6fdb; --s1: #c8531b; --s2: #15805a; --s3: #8446c0; --s4: #9a6b00; --s5: #b5246a; }
@media (prefers-color-scheme: dark) { :root { --page: #12151b; --card: #1a1f28; --ink: #e8ebf1; --soft: #9aa5b6;
  --grid: #2a313d; --edge: #2c3441; --roof: #8b96a8; --mark: #7eabff;
  --s0: #7eabff; --s1: #ff9c66; --s2: #5fd0a0; --s3: #c79bf5; --s4: #e3b94d; --s5: #ff88b8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 0 0 4px; }
p { margin: 0 0 12px; } .soft { color: var(--soft); } .small { font-size: 14px; }
section { background: var(--card); border: 1px solid var(--edge); border-radius: 12px; padding: 22px 24px;
  margin-top: 20px; }
.next { border-left: 4px solid var(--mark); } .next ul { margin: 10px 0 0; padding-left: 20px; }
.next li { margin: 6px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin-top: 20px; }
.tile { background: var(--card); border: 1px solid var(--edge); border-radius: 12px; padding: 14px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 20px; }
.two section { min-width: 0; }
code { font: 0.9em ui-monospace, monospace; background: var(--page); padding: 2px 5px; border-radius: 4px; }
.note { margin: 12px 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px;
  margin-top: 10px; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
td small { color: var(--soft); } tr:last-child td { border-bottom: 0; }
.bar { display: inline-block; width: 84px; height: 8px; border-radius: 4px; background: var(--grid);
  vertical-align: middle; margin-left: 8px; }
.bar i { display: block; height: 8px; border-radius: 4px; background: var(--mark); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0 0; font-size: 14px; color: var(--soft); }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px;
  background: currentColor; vertical-align: -1px; }
.legend i.hollow { background: none; border: 2.5px solid currentColor; }
svg { width: 100%; height: auto; display: block; margin-top: 8px; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); } svg .axis { font-size: 13px; }
svg .label { fill: var(--ink); } .grid { stroke: var(--grid); } .roof { stroke: var(--roof); stroke-width: 2; }
.line { fill: none; stroke: currentColor; stroke-width: 2; }
.whisker { stroke: currentColor; stroke-width: 1.5; opacity: .55; }
circle { fill: currentColor; stroke: var(--card); stroke-width: 1.5; }
.hollow circle { fill: var(--card); stroke: currentColor; stroke-width: 2.5; } .hollow .line { stroke-dasharray: 5 4; }
""" + "\n".join(f".s{number} {{ color: var(--s{number}); }}" for number in range(6))
