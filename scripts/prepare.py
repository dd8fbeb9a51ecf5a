"""What must happen before hybrid runs from this checkout? Makes .venv and installs into it, saying so.

Run by prepare.sh with any Python >= 3.11; standard library only. Safe to interrupt and to run again: a .venv whose
stamp matches is left alone (0.1 s), anything else is completed. llama.cpp is built once for this machine, and the
wheel kept.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

# Measured on x86-64 Linux, with room to spare: .venv with the dev extra, and the build of llama.cpp inside it.
DISK_BYTES = 1_200_000_000
REINSTALL_DISK_BYTES = 200_000_000

LEAN_FLAGS = ("-DLLAVA_BUILD=OFF", "-DLLAMA_ALL_WARNINGS=OFF")
"""Added to lean.cmake. GGML_NATIVE stays on: the wheel is for the machine that built it."""


class Failure(Exception):
    """A step cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class Checkout:
    """A copy of this repository, and where in it things are made."""

    root: Path
    lock_fd: int | None = None
    """Passed on to each step, so that what a killed run left running keeps the lock."""

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """What the last finished installation was made from."""
        return self.venv / "hybrid-stamp.json"

    @property
    def temporary(self) -> Path:
        """Where steps build: here, so that one disk must have room and a killed run's leftovers are found again."""
        return self.venv / "tmp"

    @property
    def lean(self) -> Path:
        return self.root / "scripts" / "lean.cmake"


def main() -> int:
    """Prepare .venv; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="with what the tests and checks need")
    has_dev = parser.parse_args().dev
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        prepare(Checkout(Path(__file__).resolve().parent.parent), os.environ, has_dev=has_dev)
    except (Failure, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def prepare(checkout: Checkout, environ: Mapping[str, str], *, has_dev: bool) -> None:
    """Make .venv hold what this checkout needs, or raise Failure."""
    checkout.venv.mkdir(exist_ok=True)
    with only_one(checkout) as here:
        wanted = fingerprint(here, environ)
        stamp = read_stamp(here)
        if stamp.get("fingerprint") == wanted and (stamp.get("dev") or not has_dev) and here.python.exists():
            return
        # First what can be found lacking at once, before minutes are spent.
        need_compiler(environ)
        need_disk(here)
        here.stamp.unlink(missing_ok=True)
        shutil.rmtree(here.temporary, ignore_errors=True)
        make_venv(here)
        wheel = llama_wheel(here, environ)
        install(here, wheel, has_dev=has_dev)
        here.stamp.write_text(json.dumps({"fingerprint": wanted, "dev": has_dev}))


@contextlib.contextmanager
def only_one(here: Checkout) -> Iterator[Checkout]:
    """Hold a lock, so that scripts/serve and scripts/test started together do not both install."""
    with (here.venv / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another script that is preparing .venv, or for what a killed one left running")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield replace(here, lock_fd=lock.fileno())


def fingerprint(here: Checkout, environ: Mapping[str, str]) -> str:
    """Hash what an installation depends on; the Python files do not count, they are used in place."""
    digest = hashlib.sha256()
    files = [
        here.root / "pyproject.toml",
        here.root / "CMakeLists.txt",
        *sorted((here.root / "hybrid/native/src").rglob("*")),
    ]
    files += [here.root / "scripts" / "prepare.py", here.lean]
    for path in (path for path in files if path.is_file()):
        digest.update(f"{path.relative_to(here.root)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    digest.update(f"{here.root}\0{environ.get('HYBRID_CMAKE_ARGS', '')}\0{cpu()}".encode())
    return digest.hexdigest()


def read_stamp(here: Checkout) -> dict[str, object]:
    """What the last finished installation wrote; empty if none finished."""
    try:
        stamp = json.loads(here.stamp.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def make_venv(here: Checkout) -> None:
    """Make .venv, anew where an interrupted run left half of one."""
    works = [str(here.python), "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
    if here.python.exists() and subprocess.run(works, capture_output=True).returncode == 0:
        return
    say(f"making .venv with Python {platform.python_version()} ({sys.executable})")
    for path in here.venv.iterdir():
        # The lock is held by this very process.
        if path.name != ".lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    run(here, [sys.executable, "-m", "venv", str(here.venv)], "venv")


def llama_wheel(here: Checkout, environ: Mapping[str, str]) -> Path:
    """Return the wheel of llama-cpp-python for this machine, built now if no earlier build is kept."""
    found = re.search(r'"llama-cpp-python>=([0-9.]+)', (here.root / "pyproject.toml").read_text())
    assert found, "pyproject.toml does not name llama-cpp-python"
    version = found[1]
    extra = environ.get("HYBRID_CMAKE_ARGS", "")
    recipe = f"{LEAN_FLAGS}\0{here.lean.read_text()}\0{extra}\0{cpu()}"
    tag = subprocess.run([here.python, "-c", _TAG], capture_output=True, text=True, check=True).stdout.strip()
    wheels = cache_dir(environ) / "hybrid" / "wheels"
    home = wheels / f"{tag}-{version}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if kept := sorted(home.glob("llama_cpp_python-*.whl")):
        say(f"llama.cpp {version}: using the wheel built before ({kept[0]})")
        return kept[0]
    minutes = max(2, round(6 / (os.cpu_count() or 1)))
    say(f"building llama.cpp {version} for this machine: about {minutes} minutes, once; the wheel is kept in {wheels}")
    built = here.venv / "built"
    shutil.rmtree(built, ignore_errors=True)
    flags = [*LEAN_FLAGS, f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={here.lean}", *shlex.split(extra)]
    command = pip(here, "wheel", "-v", "--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python")
    run(here, [*command, "-w", str(built), f"llama-cpp-python=={version}"], "llama.cpp", CMAKE_ARGS=shlex.join(flags))
    home.mkdir(parents=True, exist_ok=True)
    [wheel] = built.glob("llama_cpp_python-*.whl")
    # Copied beside its place and then renamed: a wheel that is there is whole.
    partial = home / f".{wheel.name}.{os.getpid()}"
    shutil.copyfile(wheel, partial)
    shutil.rmtree(built)
    return partial.rename(home / wheel.name)


_TAG = "import sys, sysconfig; print(f'cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}')"


def install(here: Checkout, wheel: Path, *, has_dev: bool) -> None:
    """Install this checkout, editable, and everything it needs."""
    say(f"installing hybrid and its dependencies{' with the dev extra' if has_dev else ''}")
    marker = here.venv / "hybrid-llama-wheel"
    if not marker.exists() or marker.read_text() != str(wheel):
        # pip takes a wheel of the version that is installed for the same one, whatever it was built with.
        marker.unlink(missing_ok=True)
        run(here, [*pip(here, "install", "--no-deps", "--force-reinstall"), str(wheel)], "llama.cpp-install")
        marker.write_text(str(wheel))
    run(here, [*pip(here, "install"), "-e", f"{here.root}[dev]" if has_dev else str(here.root)], "install")


def pip(here: Checkout, *arguments: str) -> list[str]:
    """A pip command; index, proxy and certificates are as the user configured them."""
    return [str(here.python), "-m", "pip", "--disable-pip-version-check", *arguments]


def run(here: Checkout, command: list[str], name: str, **environ: str) -> None:
    """Run one step, its output in a log file, its progress on stderr.

    Raises: Failure with the likely cause, the end of the log and where the whole of it is.
    """
    log = here.venv / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    here.temporary.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    with log.open("wb") as output:
        # Its own session: an interrupt must reach the compilers below pip too, and reach them once.
        step = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(here.temporary), "PYTHONUNBUFFERED": "1", **environ},
            start_new_session=True,
            pass_fds=() if here.lock_fd is None else (here.lock_fd,),
        )
        try:
            watch(step, log, started_s)
        except BaseException:
            stop(step)
            raise
    shutil.rmtree(here.temporary, ignore_errors=True)
    if step.returncode != 0:
        text = log.read_text(errors="replace")
        raise Failure(f"{name} failed: {explain(text)}\n{last_lines(text)}\nThe whole output is in {log}")
    say(f"done in {time.monotonic() - started_s:.0f} s", is_detail=True)


def stop(step: subprocess.Popen[bytes]) -> None:
    """End a step and all it started: politely, so that pip removes its temporary files, then for good."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(step.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            step.wait(timeout=5)


def watch(step: subprocess.Popen[bytes], log: Path, started_s: float) -> None:
    """Show how far a step is until it ends: one line that is rewritten on a terminal, one each 15 s elsewhere."""
    is_terminal = sys.stderr.isatty()
    shown_s = started_s
    with log.open("rb") as reader:
        latest = ""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                step.wait(timeout=0.5)
            latest = progress(reader.read().decode(errors="replace")) or latest
            now_s = time.monotonic()
            if step.returncode is not None:
                break
            if is_terminal:
                line = f"    {now_s - started_s:4.0f} s  {latest}"
                print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)
            elif now_s - shown_s >= 15:
                shown_s = now_s
                say(f"{now_s - started_s:4.0f} s  {latest or 'still at it'}", is_detail=True)
    if is_terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


_NINJA = re.compile(r"^ *\[(\d+)/(\d+)\] (.*)$", re.MULTILINE)
_PIP = re.compile(r"^ *((?:Collecting|Downloading|Building|Installing|Preparing|Getting) [^\n]*)$", re.MULTILINE)


def progress(text: str) -> str:
    """Put the latest of a piece of pip or ninja output into a few words; "" where there is nothing to tell."""
    if steps := _NINJA.findall(text):
        done, total, command = steps[-1]
        _, is_compiling, source = command.rpartition(" -c ")
        return (
            f"step {done} of {total}, {f'compiling {Path(shlex.split(source)[0]).name}' if is_compiling else 'linking'}"
        )
    lines = _PIP.findall(text)
    return str(lines[-1])[:100] if lines else ""


CAUSES = (
    (r"No space left on device", "the disk is full; free some space and run it again"),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "the package index's certificate is not trusted; set PIP_CERT to your organisation's CA file",
    ),
    (
        r"NewConnectionError|Name or service not known|name resolution|Connection (?:refused|timed out|reset)"
        r"|connection error|ProxyError|ReadTimeout|Network is unreachable|nodename nor servname",
        "the package index cannot be reached; check the network, the proxy (HTTPS_PROXY) and `pip config list`",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "the package index does not have what is needed; check which index `pip config list` names",
    ),
    (r"Killed signal|cc1plus.*Killed|signal 9", "the compiler was killed, likely for memory; 2 GB must be free"),
    (r"fatal error:|error: command|FAILED: |CMake Error", "the compiler or CMake reported an error"),
    (r"ResolutionImpossible", "the pinned versions contradict each other"),
)


def explain(text: str) -> str:
    """Guess from a step's output why it failed and say what to do."""
    return next((cause for pattern, cause in CAUSES if re.search(pattern, text)), "its last lines say why")


def last_lines(text: str, count: int = 12) -> str:
    """The lines of an output that name errors, else its end; cut to what a terminal shows well."""
    lines = [line.rstrip()[:300] for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error:|Error: |ERROR|CMake Error|FAILED", line)]
    return "\n".join(f"    {line}" for line in (errors or lines)[-count:])


def need_compiler(environ: Mapping[str, str]) -> None:
    """Raise Failure unless a C and a C++17 compiler work."""
    for variable, names, language, flag in (
        ("CC", ("cc", "gcc", "clang"), "c", "-std=c11"),
        ("CXX", ("c++", "g++", "clang++"), "c++", "-std=c++17"),
    ):
        named = shlex.split(environ.get(variable, ""))
        compiler = named or [found for name in names if (found := shutil.which(name))][:1]
        program = "#include <stddef.h>\nint main(void) { return 0; }\n" if language == "c" else CPP_PROGRAM
        if not compiler or not compiles([*compiler, flag, "-x", language, "-", "-o", os.devnull], program):
            found = (
                f"{shlex.join(compiler)} does not compile" if compiler else f"none of {', '.join(names)} is installed"
            )
            lacking(f"a C++17 compiler is needed and {found}")


CPP_PROGRAM = "#include <string_view>\nint main() { return static_cast<int>(std::string_view{}.size()); }\n"


def compiles(command: list[str], program: str) -> bool:
    """Whether the compiler takes a small program: one that is there may still lack its library or its licence."""
    try:
        return subprocess.run(command, input=program, text=True, capture_output=True).returncode == 0
    except OSError:
        return False


def lacking(what: str) -> NoReturn:
    """Raise Failure with how to install a compiler here."""
    if sys.platform == "darwin":
        raise Failure(f"{what}. Install one: xcode-select --install")
    raise Failure(
        f"{what}. Install one: apt install build-essential (Debian, Ubuntu), dnf install gcc-c++ (Fedora), "
        "apk add build-base (Alpine); or name it in CXX and CC"
    )


def need_disk(here: Checkout) -> None:
    """Raise Failure unless there is room for what is not there yet."""
    needed_bytes = DISK_BYTES if not read_stamp(here) else REINSTALL_DISK_BYTES
    free_bytes = shutil.disk_usage(here.venv).free
    if free_bytes < needed_bytes:
        raise Failure(
            f"building and installing need {needed_bytes / 1e9:.1f} GB in {here.venv}, "
            f"and {free_bytes / 1e9:.1f} GB is free; make room there and run it again"
        )


def cpu() -> str:
    """Name what -march=native depends on, for a home folder that several machines share."""
    if sys.platform == "darwin":
        named = subprocess.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return f"{platform.machine()} {named.stdout.strip()}"
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    fields = re.findall(r"^(?:flags|Features|CPU part|isa)\s*:\s*(.*)$", info, re.MULTILINE)
    return " ".join([platform.machine(), *sorted({word for line in fields for word in line.split()})])


def cache_dir(environ: Mapping[str, str]) -> Path:
    """The user's cache folder, by the XDG base directory specification."""
    given = environ.get("XDG_CACHE_HOME", "")
    return Path(given) if given.startswith("/") else Path.home() / ".cache"


def say(message: str, *, is_detail: bool = False) -> None:
    """Tell people on stderr."""
    print(f"    {message}" if is_detail else f"==> {message}", file=sys.stderr, flush=True)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
