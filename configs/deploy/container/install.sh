#!/bin/sh
# install.sh PREFIX WHEELS EXTRAS [PIP ARGUMENTS]: a virtual environment in PREFIX/venv with the one wheel in the folder
# WHEELS, which nobody but root can change afterwards.
set -eu
prefix=$1 wheels=$2 extras=$3
shift 3
set -- "$@" --no-cache-dir --no-compile
found=$(find "$wheels" -maxdepth 1 -name 'fedsteph-*.whl')
test "$(printf '%s\n' "$found" | wc -l)" = 1 && test -n "$found" ||
  { echo "$wheels must hold exactly one fedsteph-*.whl: build it anew" >&2; exit 1; }
python3 -m venv "$prefix/venv"
"$prefix/venv/bin/pip" install "$@" "$found$extras"
# Compiled once here: the running containers can write nothing.
"$prefix/venv/bin/python" -m compileall -q "$prefix/venv/lib" || true
chmod -R go-w "$prefix"
"$prefix/venv/bin/fedsteph" --version
