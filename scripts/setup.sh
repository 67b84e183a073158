# Sourced by the scripts: a virtual environment where none is active, and the package with the extras named in $1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
        for candidate in python3 python3.13 python3.12 python3.11; do
            if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                "$candidate" -m venv .venv
                break
            fi
        done
        [ -x .venv/bin/python ] || { echo "dfxm_dask needs Python 3.11 or later" >&2; exit 1; }
    fi
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
# pip is slow even where all is there: install only when the declaration changed since the last time.
stamp="$VIRTUAL_ENV/.dfxm_dask_$1"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ scripts/constraints.txt -nt "$stamp" ]; then
    echo "installing dfxm_dask[$1] into $VIRTUAL_ENV"
    python -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt --editable ".[$1]"
    touch "$stamp"
fi
