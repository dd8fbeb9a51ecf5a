"""A fake cloud as a process of its own, for measuring what stands before it: answers at once, and keeps nothing.

python -m scripts._fake_cloud PORT      prints its base URL, and serves until its standard input is closed
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hybrid.providers.fake import Answer, FakeProvider
from hybrid.server.run import run_loop

FORGET_S = 0.2
ANSWER = Answer(chunks=("Hello", " to", " you", " all"), prompt_tokens=24)


async def main(port: int) -> None:
    """Serve until whoever started this goes."""
    async with FakeProvider(ANSWER, port=port) as fake:
        print(fake.base_url, flush=True)
        loop = asyncio.get_running_loop()
        gone = loop.run_in_executor(None, sys.stdin.read)
        while not gone.done():
            await asyncio.wait((gone,), timeout=FORGET_S)
            fake.requests.clear()  # it remembers every request, which a test asks about and nobody does here


if __name__ == "__main__":
    run_loop(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
