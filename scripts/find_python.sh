#!/bin/sh
# Print a Python that can create Warden's environment: 3.11 or newer, with venv, SSL and SQLite.
# 3.11 is preferred, because the constraints were resolved with it. A name on the PATH may be a shim without a Python, so
# each one is tried.
set -eu

for name in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if path=$(command -v "$name") && "$path" - 2>/dev/null <<'PY'
import ensurepip, sqlite3, ssl, sys, venv
sys.exit(sys.version_info < (3, 11))
PY
    then
        echo "$path"
        exit 0
    fi
done

echo "Warden needs Python 3.11 or newer with its venv module, and none on the PATH has them." >&2
echo "On Debian and Ubuntu: apt-get install python3 python3-venv. Elsewhere: make PYTHON=/path/to/python3.11 …" >&2
exit 1
