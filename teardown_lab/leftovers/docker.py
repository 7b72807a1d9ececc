"""The `docker` command line, as far as runs need it: is an engine there, and remove a container."""

import shutil
import subprocess

from teardown_lab.broker.errors import BrokerUnavailable

_COMMAND_SECONDS_MAX = 30.0


def engine_answers(*, seconds_max: float = 5.0) -> bool:
    """Tell whether `docker` is installed and its engine answers soon."""
    if shutil.which("docker") is None:
        return False
    try:
        version = ["version", "--format", "{{.Server.Version}}"]
        return docker(*version, seconds_max=seconds_max).returncode == 0
    except BrokerUnavailable:
        return False


def remove_container(name_or_id: str) -> bool:
    """Remove a container with its anonymous volumes; False if there is none of that name.

    Raises:
        BrokerUnavailable: The engine does not answer, or it refuses.
    """
    if shutil.which("docker") is None:
        raise BrokerUnavailable("there is no `docker` command to remove it with")
    # `docker rm --force` takes a container that does not exist for removed.
    known = docker("container", "inspect", "--format", "{{.Id}}", name_or_id)
    if known.returncode != 0 and "no such" in known.stderr.lower():
        return False
    must("rm", "--force", "--volumes", name_or_id, failure=f"cannot remove container {name_or_id}")
    return True


def must(*arguments: str, failure: str) -> str:
    """Run a `docker` command and return what it prints.

    Raises:
        BrokerUnavailable: It fails; the text begins with `failure`.
    """
    done = docker(*arguments)
    if done.returncode != 0:
        raise BrokerUnavailable(f"{failure}: {last_line(done.stderr)}")
    return done.stdout


def docker(
    *arguments: str, seconds_max: float = _COMMAND_SECONDS_MAX
) -> subprocess.CompletedProcess[str]:
    """Run a `docker` command, whatever its exit code.

    Raises:
        BrokerUnavailable: There is no such command, or it does not end in time.
    """
    program = shutil.which("docker") or "docker"
    try:
        return subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds_max,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerUnavailable(
            f"`docker {arguments[0]}` does not end after {seconds_max:.0f} s: is the engine well?"
        ) from error
    except OSError as error:
        raise BrokerUnavailable(f"`docker` cannot be run: {error}") from error


def last_line(text: str) -> str:
    """Return what a command said last: mostly why it failed."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"
