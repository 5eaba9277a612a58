#!/bin/sh
# Makes .venv and installs the locked packages: `install.sh runtime`, or `install.sh dev` with the tools of tests as well.
# Does nothing when what is installed already fits. Called by make; PIP_* variables (index, proxy, cache) are honoured.
set -u
cd "$(dirname "$0")" || exit 1
what=${1:-runtime}
# Nothing of the user's shell may lead Python or pip elsewhere.
unset PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIREMENT PIP_CONSTRAINT

fail() { echo "tapeline: $*" >&2; exit 1; }

fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
mark() { # the installation fits when this text is unchanged
    { echo "$1 $(pwd)"; cat requirements.lock pyproject.toml install.sh; [ "$1" = runtime ] || cat requirements-dev.lock; } | cksum
}
current() { [ -x .venv/bin/python ] && [ -f ".venv/installed-$1" ] && [ "$(cat ".venv/installed-$1")" = "$(mark "$1")" ]; }

if current runtime && { [ "$what" = runtime ] || current dev; }; then exit 0; fi

# One installer at a time in this folder.
if command -v flock >/dev/null 2>&1 && [ -z "${TAPELINE_INSTALL_LOCKED:-}" ]; then
    mkdir -p .venv && TAPELINE_INSTALL_LOCKED=1 exec flock .venv/install.lock "$0" "$what"
fi

if ! { [ -x .venv/bin/python ] && .venv/bin/python -c "$fits" 2>/dev/null && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    python='' seen=''
    for candidate in python3.11 python3.12 python3.13 python3; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c "$fits" 2>/dev/null; then python=$candidate; break; fi
        seen="$seen $candidate is $("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo broken);"
    done
    [ -n "$python" ] || fail "needs Python 3.11, 3.12 or 3.13, found${seen:- none;} install one (Debian: apt install python3 python3-venv) and run make again"
    room=$(df -Pk . | awk 'NR==2 {print int($4 / 1024)}')
    [ "${room:-0}" -ge 3000 ] || fail "needs 3000 MB free in $(pwd) to install, there are ${room:-0} MB: free some and run make again"
    echo "tapeline: making .venv with $("$python" --version 2>&1)"
    mkdir -p .venv && "$python" -m venv .venv >.venv/error 2>&1 ||
        fail "cannot make a virtual environment: $(grep -v '^ *$' .venv/error | head -n 1) (Debian: apt install python3-venv)"
    rm -f .venv/error
fi

log=.venv/install.log
: >"$log"
begun=$(date +%s)
pip() { # pip "words for people" arguments...
    words=$1; shift
    echo "tapeline: installing $words ($(($(date +%s) - begun)) s)"
    # Byte code is made below for what is imported: half the time and 450 MB less than making it for every module.
    .venv/bin/python -m pip install --quiet --no-compile --no-input --no-warn-script-location "$@" >>"$log" 2>&1 || {
        grep -iE 'error|no space|timed out' "$log" | tail -n 3 >&2
        fail "installing $words failed: see $log, then run make again (it goes on where it stopped)"
    }
}

kernels=''
trap '[ -z "$kernels" ] || kill "$kernels" 2>/dev/null' EXIT
trap 'exit 130' INT TERM
servers='pipelines.definitions, dagster._daemon.cli, dagster_webserver.cli, great_expectations, mlflow.server, sklearn.ensemble'
if ! current runtime; then
    rm -f .venv/installed-runtime
    pip "torch" --constraint requirements.lock "$(grep '^torch==' requirements.lock)"
    pip "$(grep -c == requirements.lock) locked packages" --no-deps --requirement requirements.lock
    pip "Tapeline" --no-deps --no-build-isolation --editable .
    # Machine code of backtest and learning, kept beside the modules: else their first use waits for it. Not needed to run.
    echo "tapeline: compiling the backtest ($(($(date +%s) - begun)) s)"
    .venv/bin/python -m ml.warm_kernels >>"$log" 2>&1 & kernels=$!
    # Byte code of what the servers import, on another core meanwhile: made once here, else by each of them at the same time.
    .venv/bin/python -c "import $servers" >>"$log" 2>&1
fi
if [ "$what" = dev ] && ! current dev; then
    pip "tools for tests and checks" --no-deps --requirement requirements-dev.lock
    .venv/bin/python -m pytest --collect-only -q -p no:cacheprovider >>"$log" 2>&1 # byte code of the tests, likewise
    mark dev >.venv/installed-dev
fi
if [ -n "$kernels" ]; then
    wait "$kernels" || echo "tapeline: not compiled now (see $log): the first backtest will be"
    mark runtime >.venv/installed-runtime
fi
echo "tapeline: installed in $(($(date +%s) - begun)) s"
