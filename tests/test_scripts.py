"""Do the scripts say what is lacking and what they are doing? Run for real where that needs no network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from scripts import prepare

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path):
    """A checkout with nothing made yet, in a folder whose name has a space."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def run_script(checkout: Path, name: str, path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script of `checkout` with nothing on PATH but what is in `path`."""
    bash = shutil.which("bash")
    assert bash
    return subprocess.run(
        [bash, str(checkout / "scripts" / name)],
        env={"PATH": str(path), "HOME": str(checkout), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def fake_python(path: Path, name: str, complaint: str) -> None:
    """Put a Python on `path` that fails the probe with `complaint`."""
    path.mkdir(exist_ok=True)
    (path / name).write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 1\n")
    (path / name).chmod(0o700)


@pytest.mark.parametrize("script", ["serve", "test", "check"])
def test_without_a_python_the_scripts_say_what_to_install(checkout, tmp_path, script):
    """On a machine with only an old Python each script names it, and says what to install."""
    fake_python(tmp_path / "bin", "python3", "is 3.9, and 3.11 is needed")
    done = run_script(checkout, script, tmp_path / "bin")
    assert 1 == done.returncode
    assert "error: no usable Python of version 3.11 or later" in done.stderr
    assert f"{tmp_path}/bin/python3 is 3.9, and 3.11 is needed" in done.stderr
    assert "HYBRID_PYTHON" in done.stderr
    assert "" == done.stdout


def test_without_a_compiler_the_scripts_stop_at_once(checkout, tmp_path):
    """A machine without a compiler is told so before anything is made, and how to get one."""
    (tmp_path / "bin").mkdir()
    done = run_script(checkout, "serve", tmp_path / "bin", HYBRID_PYTHON=sys.executable)
    assert 1 == done.returncode
    assert "error: a C++17 compiler is needed and none of cc, gcc, clang is installed" in done.stderr
    assert not (checkout / ".venv" / "bin").exists()


def test_a_compiler_that_does_not_compile_is_named(checkout, tmp_path):
    """A compiler that is there but broken is told apart from one that is missing."""
    fake_python(tmp_path / "bin", "cc", "no licence")
    done = run_script(checkout, "serve", tmp_path / "bin", HYBRID_PYTHON=sys.executable)
    assert f"needed and {tmp_path}/bin/cc does not compile" in done.stderr


NINJA = """\
  [12/79] /usr/bin/g++ -DGGML_BUILD -I/x/include -O3 -o CMakeFiles/ggml.dir/ggml.cpp.o -c '/a b/ggml-cpu/repack.cpp'
  Some warning
  [13/79] : && /usr/bin/g++ -fPIC -shared -o bin/libggml.so vendor/ggml.o && :
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(NINJA, "step 13 of 79, linking", id="link"),
        pytest.param(NINJA.partition("  [13")[0], "step 12 of 79, compiling repack.cpp", id="compile"),
        pytest.param("Collecting a\n  Downloading a-1.whl (2 MB)\n", "Downloading a-1.whl (2 MB)", id="pip"),
        pytest.param("-- Found OpenMP\n", "", id="nothing-to-tell"),
    ],
)
def test_progress_reads_what_the_tools_print(text, expected):
    """pip's and ninja's output becomes a few words; lines as captured from a build of llama-cpp-python 0.3.36."""
    assert expected == prepare.progress(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("OSError: [Errno 28] No space left on device", "disk is full", id="disk"),
        pytest.param(
            "WARNING: Retrying after connection broken by 'NewConnectionError(...: Failed to establish a connection: "
            "[Errno -3] Temporary failure in name resolution')\nERROR: No matching distribution found for nanobind",
            "index cannot be reached; check the network, the proxy",
            id="offline",
        ),
        pytest.param("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "PIP_CERT", id="tls"),
        pytest.param(
            "ERROR: No matching distribution found for x", "does not have what is needed", id="index-lacks-it"
        ),
        pytest.param("x.cpp:1:10: fatal error: omp.h: No such file", "compiler or CMake", id="compiler"),
        pytest.param("something else", "its last lines say why", id="unknown"),
    ],
)
def test_a_failed_step_says_what_to_do(text, expected):
    """The likeliest cause of a failure, with what to change, goes before the end of the log."""
    assert expected in prepare.explain(text)


def test_the_end_of_a_log_prefers_errors():
    """Of a long log the lines with errors are shown, else the last ones."""
    noise = "\n".join(f"note {number}" for number in range(99))
    assert "    x.cpp:1: error: no" == prepare.last_lines(f"x.cpp:1: error: no\n{noise}")
    assert "    note 98" == prepare.last_lines(noise, count=1)


def test_a_failing_step_raises_with_its_log(tmp_path):
    """A step that fails names its log and leaves no temporary files."""
    here = prepare.Checkout(tmp_path)
    here.venv.mkdir()
    with pytest.raises(prepare.Failure, match="demo failed: the disk is full") as caught:
        prepare.run(here, [sys.executable, "-c", "exit('No space left on device')"], "demo")
    assert str(tmp_path / ".venv" / "logs" / "demo.log") in str(caught.value)
    assert ["logs"] == [path.name for path in here.venv.iterdir()]


def test_the_fingerprint_follows_what_is_installed(tmp_path):
    """Changing what the installation depends on changes the fingerprint; a Python file does not."""
    (tmp_path / "hybrid/native/src").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("a")
    here = prepare.Checkout(tmp_path)
    first = prepare.fingerprint(here, {})
    (tmp_path / "hybrid/x.py").write_text("x")
    assert first == prepare.fingerprint(here, {})
    assert first != prepare.fingerprint(here, {"HYBRID_CMAKE_ARGS": "-DGGML_CUDA=on"})
    (tmp_path / "hybrid/native/src/a.cpp").write_text("x")
    assert first != prepare.fingerprint(here, {})


@pytest.mark.skipif(not (ROOT / ".venv" / "hybrid-stamp.json").exists(), reason="scripts/test has not made .venv here")
def test_serve_serves(starter_model):
    """In a prepared checkout scripts/serve goes straight to serving, and Ctrl-C ends it."""
    environ = {**os.environ, "HYBRID_DATA_DIR": str(starter_model.parent.parent)}
    command = [str(ROOT / "scripts" / "serve"), "--port", "0", "--offline"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as served:
        assert served.stderr is not None
        ready = next(line for line in served.stderr if "ready in" in line)
        url = ready.split()[4].removesuffix("/v1")
        with urllib.request.urlopen(f"{url}/healthz", timeout=30) as answer:  # noqa: S310 - a loopback URL
            status = answer.status
        served.send_signal(signal.SIGINT)
        served.stderr.read()
    assert (200, 0) == (status, served.returncode)
