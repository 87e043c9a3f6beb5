"""Look at what is installed here, and say how to get what is missing."""

from __future__ import annotations

import json

import click

from kws.cli import _options


@click.command(epilog="Example: kws doctor")
@_options.json
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check Python, packages, compilers, emulator, probes, ports, data, synthesis.

    Exit code 1 when something that every verb needs is missing.
    """
    from kws import doctor

    checks = doctor.checks()
    if as_json:
        click.echo(json.dumps({"checks": [check.as_dict() for check in checks]}))
    else:
        for check in checks:
            state = "ok" if check.ok else ("MISSING" if check.required else "missing")
            click.echo(f"{state:<8}{check.name:<31}{check.found or check.purpose}")
            if not check.ok:
                click.echo(f"{'':<8}{'':<31}Hint: {check.hint}")
    ctx.exit(1 if any(check.required and not check.ok for check in checks) else 0)
