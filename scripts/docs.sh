#!/usr/bin/env bash
# Sets up .venv-docs (first time only) and builds the pages of docs/ as a site with search in outputs/site. Broken links, pages missing from the
# menu and anything that a browser would load from elsewhere end it with an error.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

FOLDER=.venv-docs
SITE=outputs/site
python=$(find_python)
wanted=$("$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")')
stamp=$(printf '%s' "$wanted" | cat - scripts/constraints.txt | cksum)
if [ "$(cat "$FOLDER/.ready" 2>/dev/null)" != "$stamp" ]; then
  say "set-up: installing mkdocs into $FOLDER"
  "$python" -m venv --clear "$FOLDER"
  if ! "$FOLDER/bin/python" -m pip install --progress-bar off -c scripts/constraints.txt -r <(printf '%s\n' "$wanted") >"$FOLDER/install.log" 2>&1; then
    tail -n 20 "$FOLDER/install.log" >&2
    echo "set-up failed: the installation stopped with the lines above; the whole log is $FOLDER/install.log" >&2
    exit 1
  fi
  printf '%s\n' "$stamp" >"$FOLDER/.ready"
fi

say "docs: mkdocs build --strict"
NO_MKDOCS_2_WARNING=1 "$FOLDER/bin/python" -m mkdocs build --strict --clean --site-dir "$SITE"
if grep -rEn '<(script|img|iframe)[^>]* src="?(https?:)?//|<link[^>]*(stylesheet|preload|preconnect|icon)[^>]* href="?(https?:)?//' "$SITE" --include='*.html'; then
  echo "the pages above load something from the network; keep it in docs/" >&2
  exit 1
fi
say "done: $SITE/index.html; with search: python -m http.server --directory $SITE"
