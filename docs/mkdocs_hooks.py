"""MkDocs hooks: what works on a repository's page and not on the website is replaced.

Links to files outside ``docs/`` become their paths, and the build fails if such a file is missing. Links between pages
are left to MkDocs, which checks them itself. Sphinx roles in docstrings, such as ``:func:``, are removed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

_OUTSIDE = re.compile(r"\[(?P<text>[^\]]*)\]\(\.\./(?P<path>[^)#]+)[^)]*\)")
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code>)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs with the Markdown of each page.

    Raises:
        PluginError: a link to a file that does not exist.
    """
    root = Path(config["config_file_path"]).parent

    def replaced(link: re.Match[str]) -> str:
        text, path = link["text"], Path(link["path"])
        if not (root / path).exists():
            raise PluginError(f"{page.file.src_path} links to {path}, which does not exist")
        return f"`{path}`" if text in (str(path), path.name, path.stem) else f"{text} (`{path}`)"

    return _OUTSIDE.sub(replaced, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs with the HTML of each page."""
    return _ROLE.sub("", html)
