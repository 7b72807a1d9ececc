#!/usr/bin/env bash
# Put `prometheus` and `promtool` into .venv/bin, for the tests of tests/observability. Debian's
# package is unpacked there, not installed: no service is made or started, no user is added, and
# `make clean` takes it all away. Does nothing where both programs are on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
bin=$PWD/.venv/bin
programs=(prometheus promtool)

say() { printf 'prometheus: %s\n' "$*"; }
die() { printf 'prometheus: %s\n' "$*" >&2; exit 1; }

[ -x "$bin/python" ] || die "there is no .venv: run make setup first"
PATH=$bin:$PATH
missing=()
for program in "${programs[@]}"; do
  command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -eq 0 ]; then
  say "$(command -v prometheus) and $(command -v promtool) are there"
  exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  die "${missing[*]}: not on the PATH, and this is no Debian or Ubuntu; install Prometheus from your system's packages"
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
apt=(apt-get -q -o Acquire::Retries=3 -o APT::Sandbox::User=root)
# Downloading needs no root, only package lists; making those anew does.
fetch() { (cd "$folder" && "${apt[@]}" download prometheus) >"$folder/log" 2>&1; }
if ! fetch && [ "$(id -u)" = 0 ]; then
  "${apt[@]}" -o DPkg::Lock::Timeout=300 update >"$folder/log" 2>&1 || true
  fetch || true
fi
packages=("$folder"/*.deb)
if [ ! -f "${packages[0]}" ]; then
  tail -n 15 "$folder/log" | sed 's/^/  | /' >&2
  die "apt-get could not download the package; run apt-get update as root, then this again"
fi
dpkg-deb --extract "${packages[0]}" "$folder/package"
for program in "${programs[@]}"; do
  "$folder/package/usr/bin/$program" --version >/dev/null 2>&1 || die "Debian's $program does not run here"
  install -m 755 "$folder/package/usr/bin/$program" "$bin/$program"
done
say "$("$bin/promtool" --version 2>&1 | head -n 1), in .venv/bin"
