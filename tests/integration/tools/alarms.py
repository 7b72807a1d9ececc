"""A memory alarm on a private node, on and off within a fraction of a second (`erl_call`)."""

import os
import shutil
import subprocess

from support.needs import need

from teardown_lab.own_broker.private_node import PrivateNode

NEVER, ALWAYS = "0.9", "0.000001"


def set_memory_limit(node: PrivateNode, fraction: str) -> None:
    """Set the share of the machine's memory above which the node blocks publishers."""
    program = shutil.which("erl_call")
    need(program, "erl_call, of Erlang", "TEARDOWN_REQUIRE_BROKER")
    assert program is not None, "need() skips or fails"
    variables = node.variables
    cookie = (node.folder / "home" / ".erlang.cookie").read_text(encoding="ascii").strip()
    name = variables["RABBITMQ_NODENAME"]
    call = f"vm_memory_monitor set_vm_memory_high_watermark [{fraction}]"
    command = [program, "-sname", name, "-c", cookie, "-a", call]
    subprocess.run(command, env={**os.environ, **variables}, check=True, timeout=60)
