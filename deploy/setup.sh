#!/usr/bin/env bash
# Make .venv with the `teardown` command in it, and see to it that there is a broker to use.
# `make setup` calls it, and every other target calls that: with nothing to do it takes a blink.
#
#   PYTHON=python3.12            the Python to make .venv with (3.11 or newer)
#   TEARDOWN_SETUP_SYSTEM=no     install no system packages, even as root
#   AMQP_URL=amqp://...          use this broker: none is installed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$root/.venv
log=$venv/setup.log
exec </dev/null
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 DEBIAN_FRONTEND=noninteractive

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Two calls at once (`make -j`, two terminals) wait for each other.
if command -v flock >/dev/null; then
  exec 8<"$root"
  flock 8
fi

# Runs a command with its output in the log; shows the log's end only if the command fails.
quietly() { # WHAT COMMAND...
  local what=$1 begin
  shift
  begin=$(cat "$log" 2>/dev/null | wc -l) # python -m venv --clear takes the log away
  { printf '\n## %s\n' "$*"; "$@"; } >>"$log" 2>&1 8<&- && return
  printf 'setup: could not %s; the end of %s:\n' "$what" "$log" >&2
  tail -n "+$((begin + 1))" "$log" | tail -n 25 | sed 's/^/  | /' >&2
  return 1
}

# --- System packages (Debian and Ubuntu, as root) -------------------------------------------------

may_apt() {
  [ "${TEARDOWN_SETUP_SYSTEM:-yes}" != no ] && [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] \
    && command -v apt-get >/dev/null
}

lists_are_fresh() { # package lists are there, and from the last day
  [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit 2>/dev/null)" ]
}

apt_install() { # PACKAGE...
  local apt=(apt-get -q -y -o DPkg::Lock::Timeout=300)
  local install=("${apt[@]}" install --no-install-recommends "$@")
  lists_are_fresh || "${apt[@]}" update || true
  "${install[@]}" || { "${apt[@]}" update && "${install[@]}"; }
}

policy=/usr/sbin/policy-rc.d
policy_aside=$policy.before-teardown-lab
policy_mark='# by teardown-lab, while it installs rabbitmq-server'
epmd_mark='# epmd is new here'

lock_policy() {
  mkdir -p /run/lock
  exec 7>/run/lock/teardown-lab-setup
  flock 7
}

# Takes our policy away and gives back the one before it; keeps the broker (and Erlang's epmd, if it
# came with it) from being started at the next boot.
restore_policy() {
  if grep -qsxF "$policy_mark" "$policy" && has_rabbitmq && command -v systemctl >/dev/null; then
    systemctl disable rabbitmq-server.service || true
    ! grep -qsxF "$epmd_mark" "$policy" || systemctl disable epmd.socket epmd.service || true
  fi
  if [ -e "$policy_aside" ] || [ -L "$policy_aside" ]; then
    mv -f "$policy_aside" "$policy"
  elif grep -qsxF "$policy_mark" "$policy"; then
    rm -f "$policy"
  fi
}

# After a setup that was killed in the middle; its apt-get, should it still run, holds the lock.
repair_policy() (
  lock_policy
  restore_policy
)

put_policy() {
  printf '#!/bin/sh\n%s\nexit 101\n' "$marks" >"$policy.new-teardown-lab" || return
  chmod 755 "$policy.new-teardown-lab" || return
  if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$policy_aside" || return; fi
  mv "$policy.new-teardown-lab" "$policy"
}

# Installs rabbitmq-server without letting Debian start its broker, now or at the next boot: the
# private nodes need only the program, and port 5672 is not ours to take.
install_rabbitmq() (
  local marks
  lock_policy || exit 1 # another clone's setup must not take our policy for the one to give back
  restore_policy
  trap restore_policy EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  marks=$policy_mark
  [ -e /usr/bin/epmd ] || marks+=$'\n'$epmd_mark
  put_policy || exit 1 # without it Debian would start its broker
  apt_install rabbitmq-server
)

# --- Python and .venv -----------------------------------------------------------------------------

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    suits "$PYTHON" || return 1
    echo "$PYTHON"
    return
  fi
  for candidate in python3.11 python3 python3.12 python3.13 python3.14 python; do
    if suits "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

make_venv() {
  local python version
  mkdir -p "$venv"
  : >"$log"
  if ! python=$(find_python); then
    [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a Python 3.11 or newer"
    if may_apt; then
      say "installing python3 and python3-venv"
      quietly "install python3 and python3-venv" apt_install python3 python3-venv || exit 1
    fi
    python=$(find_python) || die "no Python 3.11 or newer on the PATH; install one (or say PYTHON=/path/to/python3.11 make setup)"
  fi
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if ! can_make_venv "$python" && may_apt; then
    say "installing python$version-venv"
    quietly "install python$version-venv" apt_install "python$version-venv" \
      || quietly "install python3-venv" apt_install python3-venv || exit 1
  fi
  can_make_venv "$python" \
    || die "$python ($version) cannot make a virtual environment; on Debian or Ubuntu: apt-get install python$version-venv"
  say "making .venv with Python $version"
  # The log lives in .venv, which --clear empties.
  local output
  output=$("$python" -m venv --clear "$venv" 2>&1) || die "could not make .venv: $output"
  printf '%s\n' "$root" >"$venv/.made-for"
}

# A stamp holds what an installation was made from; it is written when the installation has ended.
is_stamped() { [ "$(cat "$venv/.stamp-$1" 2>/dev/null)" = "$2" ]; }

# What an editable install is made from: pyproject.toml without the settings of linters and tests.
installed_parts() { awk '/^\[/ { skip = /^\[+tool\./ && !/^\[+tool\.hatch/ } !skip' pyproject.toml; }

setup_venv() {
  local lock project
  # A .venv that was moved, copied, half made or whose Python is gone does not work.
  if [ "$(cat "$venv/.made-for" 2>/dev/null)" != "$root" ] || ! suits "$venv/bin/python"; then
    make_venv
  fi
  lock=$(cksum <requirements.lock)
  if ! is_stamped lock "$lock"; then
    say "installing the locked dependencies"
    rm -f "$venv/.stamp-lock"
    quietly "install requirements.lock" \
      "$venv/bin/python" -m pip install --require-hashes --no-deps -r requirements.lock || exit 1
    printf '%s\n' "$lock" >"$venv/.stamp-lock"
  fi
  project=$(installed_parts | cksum)
  if ! is_stamped project "$project" || [ ! -x "$venv/bin/teardown" ]; then
    say "installing teardown-lab into .venv, editable"
    rm -f "$venv/.stamp-project"
    quietly "install teardown-lab" "$venv/bin/python" -m pip install \
      --no-deps --no-build-isolation --no-index -e . || exit 1
    printf '%s\n' "$project" >"$venv/.stamp-project"
  fi
}

# --- The broker -----------------------------------------------------------------------------------

has_rabbitmq() { [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null; }

engine_answers() {
  command -v docker >/dev/null && timeout 5 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# Says which broker `--broker auto` will use; the order is the one in teardown_lab/own_broker/choice.py.
setup_broker() {
  local why="none is installed and no container engine answers"
  if may_apt && { [ -e "$policy_aside" ] || grep -qsxF "$policy_mark" "$policy"; }; then
    quietly "give $policy back" repair_policy || true
  fi
  if [ -n "${AMQP_URL:-}" ]; then
    say "broker: the one that AMQP_URL names"
  elif has_rabbitmq; then
    say "broker: private nodes of the installed rabbitmq-server"
  elif engine_answers; then
    say "broker: a RabbitMQ container"
  else
    if may_apt; then
      say "installing rabbitmq-server (Debian's own broker is not started)"
      if quietly "install rabbitmq-server" install_rabbitmq; then
        say "broker: private nodes of the installed rabbitmq-server"
        return
      fi
      why="apt-get could not install rabbitmq-server"
    fi
    say "broker: simulated, because $why; apt-get install rabbitmq-server, or set AMQP_URL, for a real one"
  fi
}

setup_venv
setup_broker
