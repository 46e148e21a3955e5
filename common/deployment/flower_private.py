"""Every part of Flower that fedsteph uses and Flower does not document, with the reason: what a new version may break.

The range of Flower's versions in pyproject.toml is the one in which all of these were found. The guard at a site checks
its own part at every start, and does not run without it.
"""

from __future__ import annotations

# What Flower's documentation names as its interface: the modules whose public names may be imported freely.
PUBLIC = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy")

# (module, name) -> where it is used, and what for
PRIVATE = {
    (
        "flwr.supernode.runtime.run_clientapp",
        "install_from_fab",
    ): "client/deployment/guard.py: the reviewed app",
    ("flwr.supernode.runtime.run_clientapp", "get_project_dir"): "client/deployment/guard.py: the reviewed folder",
    ("flwr.clientapp.utils", "get_project_dir"): "client/deployment/guard.py: the reviewed folder",
    ("flwr.clientapp.client_app", "LoadClientAppError"): "client/deployment/guard.py: the refusal that Flower reports",
    ("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp"): "client/deployment/guard.py: the program itself",
    ("flwr.supernode.start_client_internal", ""): "client/deployment/prompt_node.py: how long the SuperNode waits",
    ("flwr.supernode.cli.flower_supernode", "flower_supernode"): "client/deployment/prompt_node.py: the program itself",
    ("flwr.common.serde", "message_from_proto"): "simulations/run/in_process.py: messages as they travel",
    ("flwr.common.serde", "message_to_proto"): "simulations/run/in_process.py: messages as they travel",
    ("flwr.proto.message_pb2", "Message"): "simulations/run/in_process.py: messages as they travel",
    ("flwr.supercore.run", "Run"): "simulations/run/in_process.py: what a grid says of its run",
    ("flwr.supercore.task_identity", "TaskIdentity"): "simulations/run/in_process.py: ids of messages",
    ("flwr.cli.app", ""): "simulations/relay/crowd_process.py: 'flwr supernode register' without a process per site",
    (
        "flwr.supernode.fleet_http_connection",
        "http_request_response",
    ): "simulations/relay/crowd_process.py: a SuperNode's connection",
    **{
        (
            "flwr.supercore.inflatable.inflatable_object",
            name,
        ): "simulations/relay/crowd_node.py: messages as they travel"
        for name in ("get_all_nested_objects", "get_object_tree", "iterate_object_tree")
    },
    **{
        ("flwr.supercore.inflatable.inflatable_utils", name): "simulations/relay/crowd_node.py: messages as they travel"
        for name in ("inflate_object_from_contents", "pull_objects", "push_objects")
    },
    ("flwr.superlink.cli", ""): "server/deployment/server_doctor.py: how long an app takes to start",
}
