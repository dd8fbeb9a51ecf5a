"""Who leaves the local queue first? The urgent one, whenever it came."""

import threading

from tests.e2e.serving import Serving
from tests.e2e.test_hedge import BUSY, ONE_SLOT, _stream

NAMES = ("low", "normal", "high")


def test_an_urgent_request_passes_those_that_wait(tmp_path):
    """With the only slot taken, three wait in the order of their arrival; they are served in that of their priority."""
    served: list[str] = []

    def ask(server: Serving, name: str) -> None:
        # Slow, so that an answer is told here long before the next one ends: two threads may run in either order.
        text = f"{name} [slow]"
        answer = server.ask(text, headers={"x-hybrid-priority": name, "x-hybrid-policy": "local-only"})
        assert text == answer.json()["choices"][0]["message"]["content"]
        served.append(name)

    with Serving(tmp_path, ONE_SLOT) as server:
        server.wait_until(lambda state: state["state"] == "ready")
        busy = _stream(server, BUSY)
        server.wait_until(lambda state: state["running"] == 1)
        threads = []
        for count, name in enumerate(NAMES, start=1):
            threads.append(threading.Thread(target=ask, args=(server, name)))
            threads[-1].start()
            server.wait_until(lambda state, count=count: state["waiting"] == count)
        busy.close()
        for thread in threads:
            thread.join()

    assert list(reversed(NAMES)) == served
