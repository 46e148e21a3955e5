"""Finds a site's SuperNode and SuperExec among this machine's processes, by their command lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil

from fedsteph.client.site.site import Site

_SITE_FILE = re.compile(r'site-config="?([^"]+)"?')


def node_processes(site: Site) -> tuple[bool, bool | None]:
    """Whether the SuperNode of this site runs, and the SuperExec that speaks to it (None: nobody can tell without it).

    What another account runs may be hidden from this one (``hidepid``, ``ProtectProc``), and then counts as absent.
    """
    lines = [*_flower_lines()]
    node = next((words for words in lines if _runs("flower-supernode", words) and _is_of(site, words)), None)
    if node is None:
        return False, None
    port = f":{_option(node, '--port')}"
    return True, any(
        _runs("flower-superexec", words) and _option(words, "--runtime-api-address").endswith(port) for words in lines
    )


def _flower_lines() -> Iterator[list[str]]:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any("flower-super" in word for word in words):
            yield words


def _runs(program: str, words: list[str]) -> bool:
    return any(Path(word).name == program for word in words)


def _is_of(site: Site, words: list[str]) -> bool:
    found = _SITE_FILE.search(_option(words, "--node-config"))
    return found is not None and Path(found[1]).resolve().parent == site.folder.resolve()


def _option(words: list[str], name: str) -> str:
    following = words[words.index(name) + 1 :] if name in words else []
    return following[0] if following else ""
