"""What happens inside the sandbox? This process gives up what it could do harm with, runs a program, and tells.

Started by sandbox.py in an interpreter that sees the standard library only. It reads its job from standard input and
writes its verdicts to a pipe of its own after the last check, behind a secret that waits in another pipe till then.
"""

from __future__ import annotations

import ast
import ctypes
import json
import math
import os
import platform
import resource
import signal
import sys
import types
from pathlib import Path
from typing import Any

MAX_DETAIL_CHARS = 300
SECRET_BYTES = 32
TOLERANCE = 1e-6
"""Of floating-point results in examples, relative: a docstring shows rounded digits."""

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000

# Numbers from Linux' arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. What they have in
# common: processes and threads, signals to others, sockets, memory and limits of others, mounts, metadata of files.
DENIED = {
    "x86_64": (
        56, 57, 58, 435, 59, 322, 62, 200, 234, 129, 297, 424, 434, 101, 310, 311, 41, 53, 425, 272, 308, 165, 166,
        155, 161, 321, 298, 323, 250, 248, 249, 29, 68, 64, 240, 141, 203, 302, 319,
        90, 91, 92, 93, 94, 260, 268, 452, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199,
    ),
    "aarch64": (
        220, 435, 221, 281, 129, 130, 131, 138, 240, 424, 434, 117, 270, 271, 198, 199, 425, 97, 268, 40, 39, 41, 51,
        280, 241, 282, 219, 217, 218, 194, 186, 190, 180, 140, 122, 261, 279,
        52, 53, 54, 55, 88, 452, 5, 6, 7, 14, 15, 16,
    ),
}  # fmt: skip
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, DENY = 0x7FFF0000, 0x00050001
"""Seccomp's answers: go on, or fail with EPERM."""
X32_BIT = 0x40000000

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_VERSION = 1
PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
RIGHTS_SINCE_5 = (1 << 16) - 1
TCP_SINCE_4, SCOPES_SINCE_6 = 0b11, 0b11
READABLE = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime")


def main() -> None:
    """Do the job on standard input, and end without running anything that the program has left behind."""
    verdict_fd, secret_fd = int(sys.argv[1]), int(sys.argv[2])
    job = json.load(sys.stdin)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    missing = confine(job["cpu_s"], job["memory_bytes"])
    is_refused = bool(set(missing) & set(job["required"]))
    told: dict[str, Any] = {"missing": missing, "is_refused": is_refused, "code_error": None, "checks": []}
    if not is_refused:
        told["code_error"], told["checks"] = run(job["code"], job["checks"])
    message = os.read(secret_fd, SECRET_BYTES) + json.dumps(told).encode()
    while message:
        message = message[os.write(verdict_fd, message) :]
    os._exit(0)


def run(code: str, checks: list[dict[str, Any]]) -> tuple[str | None, list[dict[str, Any]]]:
    """Run the program, then each check in what it defined."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module
    namespace = module.__dict__
    try:
        exec(compile(code, "<candidate>", "exec"), namespace)  # noqa: S102 - it is what the sandbox is for
    except BaseException as exc:  # noqa: BLE001 - whatever it raises is its own
        return describe(exc), []
    return None, [judge(check["source"], check["expected"], namespace) for check in checks]


def judge(source: str, expected: str | None, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run one check: without `expected` it must end without an exception, else give that value."""
    try:
        if expected is None:
            exec(compile(source, "<check>", "exec"), namespace)  # noqa: S102
            return {"is_passed": True, "detail": ""}
        value = eval(compile(source, "<check>", "eval"), namespace)  # noqa: S307
        wanted = ast.literal_eval(expected)
        is_passed = equal(value, wanted) or (expected.startswith("(") and equal(value, (wanted,)))
        return {"is_passed": is_passed, "detail": "" if is_passed else f"got {clipped(repr(value))}"}
    except BaseException as exc:  # noqa: BLE001
        return {"is_passed": False, "detail": describe(exc)}


def equal(value: object, wanted: object) -> bool:
    """Whether a result is what a literal shows; never by a method of the program's own classes."""
    if type(value) is bool or type(wanted) is bool:
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float) and type(value) in (int, float):
        is_whole = type(value) is int and type(wanted) is int
        return value == wanted if is_whole else math.isclose(value, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if type(value) is not type(wanted):
        return False
    if isinstance(value, list | tuple) and isinstance(wanted, list | tuple):
        return len(value) == len(wanted) and all(equal(a, b) for a, b in zip(value, wanted, strict=True))
    if isinstance(value, dict) and isinstance(wanted, dict):
        return all(type(key) in PLAIN for key in value) and (
            value.keys() == wanted.keys() and all(equal(value[key], wanted[key]) for key in value)
        )
    if isinstance(value, set | frozenset):
        return all(type(member) in PLAIN for member in value) and value == wanted
    return type(value) in PLAIN and value == wanted


PLAIN = (int, float, complex, str, bytes, bool, type(None), tuple)


def describe(exc: BaseException) -> str:
    """Name an exception and the beginning of what it says."""
    try:
        return clipped(f"{type(exc).__name__}: {exc}")
    except BaseException:  # noqa: BLE001 - its own __str__ may raise anything
        return "an exception that cannot be shown"


def clipped(text: str) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= MAX_DETAIL_CHARS else text[:MAX_DETAIL_CHARS] + "..."


def confine(cpu_s: int, memory_bytes: int) -> list[str]:
    """Give up everything that can be given up here; returns what could not be: network, files, processes."""
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
        # No byte can be written to any file; pipes are not files.
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    if not sys.platform.startswith("linux"):
        _limit(limits)
        return ["network", "files", "processes"]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    has_own_network = _leave_network(libc)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    has_files = _close_files(libc)
    _limit(limits)
    has_calls = _close_calls(libc)
    closed = {"network": has_own_network or has_calls, "files": has_files, "processes": has_calls}
    return [name for name, is_closed in closed.items() if not is_closed]


def _limit(limits: dict[int, int]) -> None:
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (least, least))


def _leave_network(libc: ctypes.CDLL) -> bool:
    """Move to a user, network and IPC namespace of one's own, as far as a plain user may."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        # Without a map it is nobody, which is no less confined.
        return True
    return True


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


def _close_files(libc: ctypes.CDLL) -> bool:
    """Landlock: the standard library and its shared objects may be read, nothing else, and nothing may be written."""
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION)
    if version < 1:
        return False
    wanted = (RIGHTS.get(version, RIGHTS_SINCE_5), TCP_SINCE_4 if version >= 4 else 0, SCOPES_SINCE_6)
    fields = wanted[: 1 if version < 4 else 2 if version < 6 else 3]
    rules = (ctypes.c_uint64 * len(fields))(*fields)
    ruleset = libc.syscall(LANDLOCK_CREATE, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    if ruleset < 0:
        return False
    for path in {sys.base_prefix, sys.base_exec_prefix, *READABLE}:
        _allow_reading(libc, ruleset, path)
    is_closed: bool = libc.syscall(LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return is_closed


def _allow_reading(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rights = READ_FILE | READ_DIR if Path(path).is_dir() else READ_FILE
    rule = _PathRule(rights, fd)
    libc.syscall(LANDLOCK_ADD, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    os.close(fd)


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint32))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def _close_calls(libc: ctypes.CDLL) -> bool:
    """Seccomp: refuse the system calls of `DENIED`."""
    if platform.machine() not in DENIED or sys.maxsize < 2**32:
        return False
    architecture, numbers = ARCHITECTURES[platform.machine()], DENIED[platform.machine()]
    # Offsets in seccomp_data: the call's number at 0, the architecture at 4. The last instruction but one allows.
    program = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 0, len(numbers) + 3, architecture), (LOAD, 0, 0, 0)]
    program.append((JUMP_AT_LEAST, len(numbers) + 1, 0, X32_BIT))
    program += [(JUMP_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    program += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, DENY)]
    instructions = (_Instruction * len(program))(*(_Instruction(*step) for step in program))
    wanted = _Filter(len(program), instructions)
    is_closed: bool = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(wanted), 0, 0) == 0
    return is_closed


if __name__ == "__main__":
    main()
