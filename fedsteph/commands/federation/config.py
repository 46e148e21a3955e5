"""``fedsteph config``: every key of every YAML file, explained."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedsteph.commands.terminal.options import ConfigOption, SetOption
from fedsteph.common.errors import ConfigError


def config(
    preset: Annotated[str | None, typer.Option(help="Over which preset: robust, paper, or null for none.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    site: Annotated[bool, typer.Option("--site", help="A site.yaml instead.")] = False,
    server: Annotated[bool, typer.Option("--server", help="A coordinator's server.yaml instead.")] = False,
    study: Annotated[bool, typer.Option("--study", help="A study of 'fedsteph benchmark' instead.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The keys of all files as tables, in Markdown.")] = False,
) -> None:
    """Print a complete YAML file: every key with a value, and behind it what it means and which values it may have.

    Without an option that names another file, it is the configuration of a federation's run: what --config of
    simulate, train, recipe and privacy audit reads. docs/configuration.md has the same as tables.

    \b
    Examples:
      fedsteph config > federation.yaml
      fedsteph config --preset paper --set training.epochs=10
      fedsteph config --config short.yaml > complete.yaml
      fedsteph config --site > site.yaml
      fedsteph config --markdown > docs/configuration.md

    \b
    Exit codes:
      0 done
      1 your input
    """
    from fedsteph.commands.configuration import as_markdown, as_yaml, files
    from fedsteph.common.config.digest import to_dict
    from fedsteph.common.config.run_config import load_config

    asked = {"--site": site, "--server": server, "--study": study, "--markdown": markdown}
    _refuse_together(asked, {"--preset": preset, "--config": config, "--set": settings})
    named = [f"preset={_known(preset)}"] if preset is not None else []
    if markdown:
        text = as_markdown.configuration_markdown()
    elif site or server:
        file = files.site_file() if site else files.server_file()
        text = as_yaml.commented_yaml(file.about, file.keys)
    else:
        resolved = to_dict(load_config(config, [*named, *(settings or [])]), whole=True)
        file = files.study_to_print(resolved["preset"]) if study else files.federation_to_print()
        text = as_yaml.commented_yaml(file.about, file.keys, None if study else resolved)
    print(text, end="")


def _refuse_together(asked: dict[str, bool], values: dict[str, Any]) -> None:
    """Raises:
    ConfigError: two files at once, or values for a file that takes none.
    """
    files = [name for name, on in asked.items() if on]
    others = [name for name, value in values.items() if value and not (name == "--preset" and files == ["--study"])]
    if files and len(files) + len(others) > 1:
        both = [*files, *others]
        raise ConfigError(f"{both[0]} does not go with {both[1]}", where="config", remedy="Leave one of them out")


def _known(preset: str) -> str:
    from fedsteph.common.config.presets import PRESETS

    if preset not in (*PRESETS, "null"):
        known = ", ".join((*PRESETS, "null"))
        raise ConfigError(f"unknown preset {preset!r}", where="--preset", remedy=f"Known presets: {known}")
    return preset
