"""What loads no torch and none of Flower's programs: every --help, commands without tensors, a site's hello.

Each test looks at the modules of a process of its own, not at a clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from keys_and_rosters import roster_of, write_run_folder
from sites import make_site
from typer.main import get_command

from fedsteph.__main__ import app
from fedsteph.client.attack.coins import MIN_REFERENCES
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.report.developers.landscape import Budget
from fedsteph.simulations.attacks.poisoned_federation import SOURCES

HEAVY = {"torch", "flwr", "ray", "pandas", "scipy", "matplotlib", "lifelines", "sklearn"}
CALLS = """
import json, sys
from typer.main import get_command
from fedsteph.__main__ import app
command = get_command(app)
for words in json.loads(sys.argv[1]):
    try:
        command(words, standalone_mode=False)
    except SystemExit as ended:
        assert not ended.code
print("modules:", *sys.modules)
"""
HELLO = """
import sys
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from fedsteph.client.app import app
from fedsteph.common.wire import messages, protocol
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
run = messages.RunId("fed", "run1", sys.argv[2])
message = Message(protocol.pack(messages.Hello(run)), dst_node_id=1, message_type=protocol.HELLO)
message.metadata.__dict__["_message_id"] = "m1"
context = Context(1, 1, {"partition-id": 0}, RecordDict(), {"run-folder": sys.argv[1]})
reply = protocol.read(protocol.parcel(app(message, context).content, "reply"), messages.HelloReply, "reply")
print(reply.site, reply.width)
print("modules:", *sys.modules)
"""


def modules_after(program: str, *words: object) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("modules:")[2].split())


def every_command() -> list[list[str]]:
    """The words of every command and group."""
    found, waiting = [], [([], get_command(app))]
    while waiting:
        words, command = waiting.pop()
        found.append(words)
        waiting += [([*words, name], below) for name, below in getattr(command, "commands", {}).items()]
    return found


def test_every_help_and_the_version() -> None:
    calls = [[*words, "--help"] for words in every_command()]
    assert ["measure", "relay", "--help"] in calls and len(calls) > 40
    loaded = modules_after(CALLS, json.dumps([*calls, ["--version"]]))
    assert not HEAVY & loaded and not {"numpy", "cryptography", "yaml"} & loaded


def test_commands_that_need_no_tensors(tmp_path: Path) -> None:
    roster, public = str(tmp_path / "roster.yaml"), str(tmp_path / "keys" / "kirp.public.yaml")
    server = ["--federation", "kidney", "--address", "127.0.0.1:9092", "--sites", "kirp,kirc", "--targets", "kirp"]
    calls = [
        ["keys", "new", "kirp", "--out", str(tmp_path / "keys")],
        ["keys", "show", str(tmp_path / "keys")],
        ["keys", "rotate", str(tmp_path / "keys"), "--out", str(tmp_path / "keys-2")],
        ["roster", "add", roster, public, "--federation", "kidney", "--cancer", "kirp", "--contact", "IT"],
        ["roster", "list", roster],
        ["roster", "digest", roster],
        ["roster", "verify", roster],
        ["config"],
        ["config", "--server"],
        ["config", "--site"],
        ["roster", "revoke", roster, "kirp"],
        ["provision", str(tmp_path / "trial"), *server, "--width", "6"],
    ]
    assert not HEAVY & modules_after(CALLS, json.dumps(calls))


def test_a_hello_needs_no_torch(tmp_path: Path) -> None:
    """Of HDF5 files; an audit log is there afterwards, which a command without tensors looks at."""
    roster = roster_of("a")
    site = make_site(tmp_path / "a")
    run = write_run_folder(tmp_path / "run", {"a": site}, roster)
    loaded = modules_after(HELLO, run, roster.digest)
    assert "flwr" in loaded and "fedsteph.client.data.hdf5" in loaded and not (HEAVY - {"flwr"}) & loaded
    calls = [["audit", what, str(run / "sites" / "a" / "audit")] for what in ("verify", "show")]
    assert not HEAVY & modules_after(CALLS, json.dumps(calls))


def test_what_help_says_of_defaults_is_the_product_s() -> None:
    """Options tell numbers whose homes are not loaded for a help."""

    def default(*words: str) -> object:
        command = get_command(app)
        for word in words[:-1]:
            command = command.commands[word]
        return next(option.default for option in command.params if option.name == words[-1])

    assert default("privacy", "audit", "references") == MIN_REFERENCES
    assert default("privacy", "plan", "epochs") == DpSgd.epochs and default("measure", "poison", "sources") == SOURCES
    found = [default("analyze", "landscape", name) for name in ("grid", "patients", "instances")]
    assert found == [Budget.grid, Budget.patients, Budget.instances]
