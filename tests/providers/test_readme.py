"""Does the quick start in the providers' README run as it stands?"""

from __future__ import annotations

import re
from pathlib import Path

import hybrid.providers


def test_the_quick_start_prints_the_answer(capsys):
    """The example needs no key and no network, and ends with the finish."""
    readme = Path(hybrid.providers.__file__).with_name("README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    exec(compile(found[1], "README.md", "exec"), {})  # noqa: S102 - it is our own example
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "TextDelta(text='Hi', signals=(), logprobs=(), choice=0)"
    assert second == "TextDelta(text='!', signals=(), logprobs=(), choice=0)"
    assert "completion_tokens=2" in last
