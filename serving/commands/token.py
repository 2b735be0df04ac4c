"""`sieve token new`: makes a token and the entry that a server's tokens file keeps of it."""

import json
from typing import Annotated

import typer
from pydantic import ValidationError

from serving.api.auth import TokenEntry, digest_of, new_token
from serving.api.dataplane import Role
from serving.errors import ConfigError

app = typer.Typer(help="Tokens for the file that `server.tokens_file` names.", no_args_is_help=True)


@app.callback()
def _tokens() -> None:
    """Tokens for the file that `server.tokens_file` names."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="who holds it")],
    roles: Annotated[list[Role] | None, typer.Option("--role", help="what it allows; may be given again")] = None,
) -> None:
    """Prints a new token, which is kept nowhere, and its entry for the file; the role is `predict` if none is given."""
    token = new_token()
    try:
        entry = TokenEntry(name=name, sha256=digest_of(token), roles=tuple(roles or [Role.PREDICT]))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ConfigError("this cannot be a token's entry", problems) from None
    typer.echo(f"token, shown this once:\n  {token}")
    typer.echo(f"entry under `tokens:`\n  - {json.dumps(entry.model_dump(mode='json'))}")
