"""Adds what ``fedsteph data check --fix`` found to a site file, and keeps all else in it, comments too."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from fedsteph.client.data.settings import Rule
from fedsteph.client.site.site_file import SITE_FILE, SiteFile, read_site_file
from fedsteph.common.config.schema import build, parse_yaml
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import atomic


def add_match(site: Path, rules: Iterable[Rule]) -> Path:
    """Add rules to ``data.match`` in the site file, which is made if there is none; returns its path.

    Args:
        site: the site's folder or its site file.

    Raises:
        ConfigError: the site file is not valid, or would not be afterwards; it is unchanged.
        StorageError: it cannot be written.
    """
    folder, known = read_site_file(site)
    path = site if site.is_file() else folder / SITE_FILE
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 10_000  # no line of the user's is broken
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        content = editor.load(old) or CommentedMap()
        notes = "" if content else old
        content.setdefault("data", CommentedMap())["match"] = [*dict.fromkeys((*known.data.match, *rules))]
    except (YAMLError, AttributeError, TypeError) as error:
        what = f"cannot be changed ({type(error).__name__})"
        raise ConfigError(what, where=path, remedy="Write the key data.match by hand") from error
    written = io.StringIO()
    editor.dump(content, written)
    text = notes + written.getvalue()
    build(SiteFile, parse_yaml(text, path), path)
    atomic.write_text(path, text)
    return path
