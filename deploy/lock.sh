#!/usr/bin/env bash
# Write the locks anew from pyproject.toml: requirements.lock has the dependencies, the dev group and
# what the editable install needs to build; requirements-run.lock and requirements-build.lock have
# what the image needs to run and to be built, in the same versions. `make lock` calls it; commit
# the results.
#
# Versions already locked stay unless `deploy/lock.sh --upgrade` asks for newer ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3

pip_tools=7.6.2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "pip-tools==$pip_tools"

# One file for each part, because pip-compile says in a comment which part wants a package.
"$python" - "$root/pyproject.toml" "$folder" <<'PYTHON'
import pathlib
import sys
import tomllib

project = tomllib.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
folder = pathlib.Path(sys.argv[2])
parts = {
    "run": project["project"]["dependencies"],
    "tracing": project["project"].get("optional-dependencies", {}).get("tracing", []),
    "dev": project["dependency-groups"]["dev"],
    # hatchling asks for editables only when it makes an editable install.
    "build": [*project["build-system"]["requires"], "editables>=0.5"],
}
for name, requirements in parts.items():
    (folder / f"{name}.in").write_text("\n".join(requirements) + "\n", encoding="utf-8")
PYTHON

cd "$folder"
[ ! -f "$root/requirements.lock" ] || cp "$root/requirements.lock" requirements.lock

compile() { # LOCK ARGUMENT...: versions that stand in LOCK already stay
  local lock=$1
  shift
  # A machine's own wheel folder must not decide which hashes are locked.
  env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND="make lock" \
    venv/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
    --no-emit-options --output-file "$lock" "$@"
  if grep -nE '://|^ *--(index|extra|find|trusted)|/tmp/' "$lock"; then
    echo "deploy/lock.sh: the lines above name an address or a folder; $lock is unchanged" >&2
    exit 1
  fi
}

compile requirements.lock "$@" run.in tracing.in dev.in build.in
cp requirements.lock requirements-run.lock
compile requirements-run.lock run.in tracing.in
cp requirements.lock requirements-build.lock
compile requirements-build.lock build.in
for lock in requirements.lock requirements-run.lock requirements-build.lock; do
  cp "$lock" "$root/$lock"
  echo "$lock: $(grep -c '==' "$lock") packages"
done
