"""A group of commands that answers an unknown command with those that were probably meant, each once."""

from __future__ import annotations

from difflib import get_close_matches

import click
from typer.core import TyperGroup

_LIKENESS = 0.65  # of two words, from 0 to 1; below it a suggestion misleads
_MERGE = "'simulate' merges on this machine, 'run' in a deployed federation, and fedsteph.enhance in Python"
_CHECK = "'data check' looks at a site's data, 'doctor' at a deployment"
_INIT = "'provision' makes a deployment's files; a site is a folder, see docs/data.md"
_SCORE = (
    "'evaluate' scores models on other patients, 'train' and 'simulate' on test patients; 'benchmark' compares methods"
)
_SERVE = "'run' starts a deployed federation at its coordinator, 'simulate' one on this machine"
# What users call our commands, or what they look for.
_MEANT = {
    **dict.fromkeys(("merge", "enhance", "mix", "fuse", "aggregate"), _MERGE),
    **dict.fromkeys(("check", "validate", "test"), _CHECK),
    **dict.fromkeys(("init", "new", "create", "setup"), _INIT),
    **dict.fromkeys(("eval", "score", "compare", "external"), _SCORE),
    **dict.fromkeys(("start", "server", "serve", "federate", "join", "client"), _SERVE),
    **dict.fromkeys(("infer", "inference", "apply"), "'predict' uses a model on new patients"),
    **dict.fromkeys(("fit", "learn"), "'train' trains a site's own model"),
    **dict.fromkeys(("plot", "figures", "draw"), "'report' draws a page, 'analyze' single figures, 'heatmap' a slide"),
    **dict.fromkeys(("attention", "explain"), "'heatmap' shows which patches of a slide matter to a model"),
    **dict.fromkeys(("version", "help"), "--version and --help are options"),
}


class CommandGroup(TyperGroup):
    """Commands of one level. The words of :data:`_MEANT` are for the highest level alone."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; UsageError with a suggestion, if there is a good one, for an unknown command."""
        name = args[0]
        if name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        alike = get_close_matches(name.lower(), self.list_commands(ctx), cutoff=_LIKENESS)
        meant = _MEANT.get(name.lower()) if ctx.parent is None else None
        known = meant or (f"Did you mean {' or '.join(map(repr, alike))}?" if alike else "See --help for all commands")
        raise click.UsageError(f"there is no command '{name}'. {known}", ctx)
