"""Does a program that nobody has read stay inside, and can it pass without passing?"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.calibration.sandbox import ALL_BARRIERS, Check, Ran, SandboxLimits, run
from hybrid.calibration.sandbox_child import describe, equal

LIMITS = SandboxLimits(cpu_s=1, wall_s=20.0, memory_bytes=256 << 20, output_bytes=20_000)
NOTHING = [Check("pass")]
EVERY_FD = """
import os
for fd in range(3, 20):
    try:
        os.write(fd, {piece})
    except OSError:
        pass
"""


def is_confined() -> bool:
    """Whether this system has all the barriers."""
    return run("", NOTHING, LIMITS).status != "refused"


confined = pytest.mark.skipif(not is_confined(), reason="this system lacks Landlock, seccomp or both")


def test_a_right_program_passes():
    """It runs, its checks run in what it defined, and each is told."""
    ran = run("def double(x):\n    return 2 * x", [Check("assert double(2) == 4"), Check("double(3)", "6")], LIMITS, ())
    assert "done" == ran.status
    assert [True, True] == [check.is_passed for check in ran.checks]
    assert ran.is_passed


def test_a_wrong_program_fails_and_says_how():
    """One failed check is enough, and the others are told all the same."""
    ran = run("def double(x):\n    return x", [Check("double(0)", "0"), Check("double(3)", "6")], LIMITS, ())
    assert [(True, ""), (False, "got 3")] == [(check.is_passed, check.detail) for check in ran.checks]
    assert not ran.is_passed


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param("def f(:", "SyntaxError", id="syntax"),
        pytest.param("1 / 0", "ZeroDivisionError", id="raises"),
        pytest.param("import sys\nsys.exit(0)", "SystemExit: 0", id="exits"),
        pytest.param("import numpy", "ModuleNotFoundError", id="third-party"),
        pytest.param("def f(n):\n    return f(n + 1)\nf(0)", "RecursionError", id="recursion"),
        pytest.param("class E(Exception):\n    def __str__(self):\n        return 1 / 0\nraise E", "shown", id="rude"),
        pytest.param("x = '\\0'\nexec('\\0')", "Error", id="nul"),
    ],
)
def test_a_program_that_does_not_run_is_told(code, expected):
    """What it raises before any check is its own error, and no check is run."""
    ran = run(code, NOTHING, LIMITS, ())
    assert ("done", ()) == (ran.status, ran.checks)
    assert expected in ran.code_error
    assert not ran.is_passed


def test_no_checks_are_no_pass():
    """A program of which nothing was asked has proved nothing."""
    assert not run("x = 1", [], LIMITS, ()).is_passed


@confined
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param("import os\nwhile True:\n    os.fork()", "not permitted", id="fork-bomb"),
        pytest.param(
            "import threading\nwhile True:\n    threading.Thread(target=print).start()", "thread", id="threads"
        ),
        pytest.param("import subprocess\nsubprocess.run(['/bin/ls'])", "not permitted", id="process"),
        pytest.param("import os\nos.execv('/bin/sh', ['sh'])", "not permitted", id="exec"),
        pytest.param("x = []\nwhile True:\n    x.append(bytearray(1 << 24))", "MemoryError", id="memory"),
        pytest.param("open('mine', 'w').write('x')", "Permission denied", id="write-here"),
        pytest.param("import os\nos.mkdir('mine')", "Permission denied", id="folder"),
        pytest.param("import tempfile\ntempfile.TemporaryFile().write(b'x')", "No usable temporary", id="write-tmp"),
        pytest.param("open('/etc/passwd').read()", "Permission denied", id="read"),
        pytest.param("import os\nos.listdir('/')", "Permission denied", id="list"),
        pytest.param("import os\nos.chmod('/tmp', 0o700)", "not permitted", id="chmod"),
        pytest.param("import socket\nsocket.socket()", "not permitted", id="socket"),
        pytest.param("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "not permitted", id="udp"),
        pytest.param("import os\nos.kill(os.getppid(), 9)", "not permitted", id="kill-the-parent"),
        pytest.param("import os\nos.kill(0, 9)", "not permitted", id="kill-the-group"),
        pytest.param("import os\nos.setpriority(os.PRIO_PROCESS, 0, 19)", "not permitted", id="priority"),
        pytest.param(
            "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) != 0:\n    raise OSError('not permitted')",
            "not permitted",
            id="namespace",
        ),
        pytest.param("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))", "not", id="more-time"),
    ],
)
def test_a_hostile_program_gets_nowhere(code, expected):
    """Each way out is closed, and the program is told no."""
    # With time enough on a busy machine: what is to stop it here is not the clock.
    ran = run(code, NOTHING, replace(LIMITS, cpu_s=15))
    assert "done" == ran.status
    assert expected in ran.code_error
    assert not ran.is_passed


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        pytest.param("import os\nos._exit(0)", "died", "exit code 0", id="exit-0"),
        pytest.param("while True:\n    pass", "died", "SIGKILL", id="endless"),
        pytest.param("import ctypes\nctypes.string_at(0)", "died", "SIGSEGV", id="crash"),
        pytest.param("while True:\n    print('x' * 999)", "output", "too much", id="output"),
        pytest.param(
            "import os\nos.closerange(0, 64)\nwhile True:\n    pass", "died", "SIGKILL", id="closes-its-pipes"
        ),
        pytest.param(
            EVERY_FD.format(piece="b'{}' * 99") + "os._exit(0)",
            "died",
            "exit code 0",
            id="forges",
        ),
        pytest.param(
            EVERY_FD.format(piece="b'x' * (1 << 21)"),
            "output",
            "too much",
            id="floods-the-verdict",
        ),
    ],
)
def test_ending_early_is_not_passing(code, status, detail):
    """Without verdicts behind the secret there is no pass, whatever the exit code."""
    ran = run(code, NOTHING, LIMITS, ())
    assert status == ran.status
    assert detail in ran.detail
    assert not ran.is_passed


def test_a_check_that_ends_the_process_is_no_pass():
    """Also not when the first checks had passed."""
    ran = run("import os", [Check("1", "1"), Check("os._exit(0)")], LIMITS, ())
    assert "died" == ran.status
    assert not ran.is_passed


def test_a_sleeper_is_ended_by_the_clock():
    """It uses no processor time, so only the clock can stop it."""
    ran = run("import time\ntime.sleep(600)", NOTHING, SandboxLimits(wall_s=1.0), ())
    assert ("timeout", "too slow") == (ran.status, ran.detail)


def test_what_is_printed_is_kept_up_to_a_limit():
    """Standard output and error, as text, and broken UTF-8 does not hurt."""
    ran = run("import sys\nprint('out')\nprint('err', file=sys.stderr)", NOTHING, LIMITS, ())
    assert {"out", "err"} == set(ran.output.split())
    assert "�" in run("import os\nos.write(1, b'\\xff')", NOTHING, LIMITS, ()).output


def test_the_program_sees_nothing_of_us():
    """No environment of ours, no arguments that matter, an empty folder, nothing on standard input."""
    code = "import os, sys\nfound = [sorted(os.environ), sys.stdin.read(), 'site' in sys.modules, __name__]"
    ran = run(
        code, [Check("found", "[['HOME', 'LANG', 'PATH', 'PYTHONHASHSEED'], '', False, 'candidate']")], LIMITS, ()
    )
    assert ran.is_passed, ran


def test_equal_runs_end_alike():
    """Sets of texts come in the same order each time, so a draft that relies on it is right or wrong, not both."""
    order = "".join(run("x = list({'a', 'b', 'c', 'd', 'e'})\nprint(x)", NOTHING, LIMITS, ()).output for _ in range(3))
    assert 1 == len(set(order.splitlines()))


def test_a_program_is_not_main_and_has_a_module():
    """`if __name__ == "__main__"` does not run, and dataclasses find their module."""
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass P:\n    x: int\nif __name__ == '__main__':\n    1 / 0"
    )
    assert run(code, [Check("P(1).x", "1")], LIMITS, ()).is_passed


def test_nothing_is_run_where_a_barrier_is_missing():
    """A demand that no system can fulfil refuses, and says which; the program never ran."""
    assert ALL_BARRIERS == {"network", "files", "processes"}
    ran = run("print('ran')", NOTHING, LIMITS)
    assert ("refused" == ran.status) == bool(ran.missing)
    assert ("ran" in ran.output) == (ran.status == "done")


def test_the_folder_is_gone_afterwards(tmp_path):
    """Nothing is left behind, also not of a program that was killed."""
    code = (
        "from hybrid.calibration.sandbox import *\n"
        "import tempfile\n"
        "code = 'import os, time\\nprint(os.getcwd())\\ntime.sleep(600)'\n"
        "seen = run(code, [Check('1')], SandboxLimits(wall_s=2), ())\n"
        "print(tempfile.gettempdir(), seen.status, seen.output)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    ).stdout
    assert f"{tmp_path} timeout {tmp_path}/hybrid-sandbox-" in told
    assert [] == list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux kills a child with its parent")
def test_the_program_dies_with_whoever_runs_it():
    """A gateway that is killed leaves no program computing on."""
    code = (
        "from hybrid.calibration.sandbox import *\n"
        "run('import time\\ntime.sleep(600)', [Check('1')], SandboxLimits(wall_s=600.0), ())"
    )
    parent = psutil.Popen([sys.executable, "-c", code])
    child = None
    while child is None:
        assert parent.is_running()
        # It asks to die with its parent as its first act; the working folder's limits come after that.
        found = [one for one in parent.children() if "Seccomp:\t2" in _status(one.pid)]
        child = found[0] if found else None
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        (1, 1, True),
        (1, 2, False),
        (1, 1.0, True),
        (True, 1, False),
        (1, True, False),
        (True, True, True),
        (0.1 + 0.2, 0.3, True),
        (0.31, 0.3, False),
        (float("nan"), float("nan"), False),
        ([1, 2.0000001], [1, 2], True),
        ([1, 2], (1, 2), False),
        ([1, [True]], [1, [1]], False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({1, 2}, {2, 1}, True),
        ({1, 2}, {1}, False),
        ("a", "a", True),
        ("a", b"a", False),
        (None, None, True),
        (None, 0, False),
        (10**400, 10**400, True),
    ],
)
def test_equal(value, wanted, expected):
    """Same kind and same content; numbers to six digits; a truth value is no number."""
    assert expected is equal(value, wanted)


class Chameleon(int):
    """Equal to everything, as a program might say of itself."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize("wanted", [1, [1], {1: 1}, {1}, (1,)])
def test_a_class_of_the_program_equals_nothing(wanted):
    """Its own idea of equality is not asked, wherever it sits."""
    shapes = {
        int: Chameleon(2),
        list: [Chameleon(2)],
        dict: {Chameleon(2): 1},
        set: {Chameleon(2)},
        tuple: (Chameleon(2),),
    }
    assert not equal(shapes[type(wanted)], wanted)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.tuples(x, x)))
def test_everything_equals_itself(value):
    """A literal is what it is."""
    assert equal(value, value)


def test_long_messages_are_clipped():
    """A message is a line and not a page."""
    assert 320 > len(describe(ValueError("x" * 9_999)))


def test_is_passed_needs_verdicts():
    """No way of ending but `done` passes."""
    assert not Ran("died").is_passed
    assert not Ran("done").is_passed
