#!/usr/bin/env bash
# Prints the path of a Python >= 3.12: from PATH, then ~/.pyenv/versions, then uv; else says what to do.
set -u
good() { "$1" -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 12))' >/dev/null 2>&1; }
for name in "${PYTHON:-}" python3.13 python3.12 python3.14 python3 python; do
  [ -n "$name" ] || continue
  path=$(command -v "$name") && good "$path" && { "$path" -c 'import sys; print(sys.executable)'; exit 0; }
done
for path in $(ls -d "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python 2>/dev/null | sort -V); do
  good "$path" && { echo "$path"; exit 0; }
done
if command -v uv >/dev/null 2>&1; then
  path=$(uv python find '>=3.12' 2>/dev/null) || { uv python install 3.13 >&2 && path=$(uv python find '>=3.12'); }
  [ -n "${path:-}" ] && good "$path" && { echo "$path"; exit 0; }
fi
echo "readingroom needs Python 3.12 or newer and found none on PATH, under ~/.pyenv/versions or through uv." >&2
echo "Install one (for example 'apt-get install python3.12 python3.12-venv' or 'pyenv install 3.13'), or set PYTHON=/path/to/python3.12." >&2
exit 1
