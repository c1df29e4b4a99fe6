# Sourced by quickstart.sh and test.sh: one virtual environment, made once and reused while the requirements are unchanged.

say() { printf '\n\033[1m[%s] %s\033[0m\n' "$(date +%H:%M:%S)" "$*"; }

# A Python that unipot supports: $PYTHON if set, else the first of the usual names that is 3.11 or newer.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "unipot needs Python 3.11 or newer with venv; install it, or name one: PYTHON=/path/to/python3.12 bash $0" >&2
  exit 1
}

# make_environment FOLDER EXTRAS: an editable install under scripts/constraints.txt; a stamp with the requirements' hash marks success.
make_environment() {
  local folder=$1 extras=$2 python stamp
  stamp=$(printf '%s' "$extras" | cat - pyproject.toml scripts/constraints.txt | cksum)
  if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/.ready" 2>/dev/null)" = "$stamp" ]; then
    say "set-up: $folder is ready"
    return
  fi
  say "set-up: installing unipot[$extras] into $folder (the first time takes minutes)"
  python=$(find_python)
  rm -f "$folder/.ready"
  "$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$folder"
  if ! "$folder/bin/python" -m pip install --progress-bar off -c scripts/constraints.txt -e ".[$extras]" >"$folder/install.log" 2>&1; then
    tail -n 20 "$folder/install.log" >&2
    echo "set-up failed: the installation stopped with the lines above; the whole log is $folder/install.log" >&2
    exit 1
  fi
  printf '%s\n' "$stamp" >"$folder/.ready"
}
