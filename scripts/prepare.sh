# How does a script get a .venv that is ready? Sourced; `prepare [--dev]` makes one and says what it does.
# The work is in prepare.py; here is only what must run before there is a Python to run it.

root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)

# Prints the first Python that can make .venv, or build in it; tells on stderr what is wrong with the others.
find_python() {
    local candidate path problem tried=""
    local probe='
import sys
if sys.version_info < (3, 11): sys.exit("is %d.%d, and 3.11 is needed" % sys.version_info[:2])
try: import ensurepip, venv
except ImportError: sys.exit("lacks the venv module (Debian, Ubuntu: apt install python3-venv)")
import os, sysconfig
if not os.path.exists(sysconfig.get_path("include") + "/Python.h"): sys.exit("lacks its C headers (Debian, Ubuntu: apt install python3-dev; Fedora: dnf install python3-devel)")
'
    for candidate in ${HYBRID_PYTHON:+"$HYBRID_PYTHON"} python3.11 python3.12 python3.13 python3.14 python3; do
        path=$(command -v "$candidate") || continue
        if problem=$("$path" -c "$probe" 2>&1); then
            echo "$path"
            return
        fi
        tried+="  $path ${problem##*$'\n'}"$'\n'
    done
    printf 'error: no usable Python of version 3.11 or later\n%s' "$tried" >&2
    echo "Install Python 3.11 or later (Debian, Ubuntu: apt install python3 python3-venv python3-dev), or name one in HYBRID_PYTHON." >&2
    return 1
}

prepare() {
    local python="$root/.venv/bin/python"
    # A half-made .venv has no working pip; prepare.py then makes it anew with another Python.
    "$python" -c 'import pip' 2>/dev/null || python=$(find_python)
    "$python" "$root/scripts/prepare.py" "$@"
}
