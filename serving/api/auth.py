"""Tokens with roles, read from one closed file that is read again whenever it changes.

The file is YAML and holds digests only; `sieve token` makes an entry::

    tokens:
      - {name: web, sha256: 9f86d081884c7d65..., roles: [predict]}

A token is random, so one SHA-256 keeps it as safe as a slow hash would.
"""

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.api.dataplane import ANONYMOUS, Caller, Role
from serving.errors import ConfigError, Unauthenticated

FIELD = "authorization"
RELOAD_S = 1.0
MAX_TOKENS = 256
TOKEN_PREFIX = "sieve_"
TOKEN_BYTES = 32
MAX_TOKEN_CHARACTERS = 512
log = logging.getLogger(__name__)


class TokenEntry(BaseModel):
    """One token: who holds it, its digest in hex, and what it allows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    roles: tuple[Role, ...] = Field(min_length=1)


class TokenFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[TokenEntry, ...] = Field(min_length=1, max_length=MAX_TOKENS)


class Tokens:
    """Who a request's token says is calling; without a file everyone is anonymous and has every role."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """path: the file of tokens.  clock: seconds; the file is looked at once a second at most.

        Raises:
            ConfigError: with every problem of the file.
        """
        self._path = path
        self._clock = clock
        self._checked_s = clock()
        self._stamp = None if path is None else _stamp(path)
        self._callers = [] if path is None else load_tokens(path)

    @property
    def are_required(self) -> bool:
        """Whether tokens are configured."""
        return self._path is not None

    def caller(self, authorization: str | None) -> Caller:
        """The caller that an `Authorization` value names.

        Every known digest is compared, in constant time, so that the answer's time tells nothing.

        Raises:
            Unauthenticated: there is no token, or it is not known.
        """
        if self._path is None:
            return ANONYMOUS
        self._refresh(self._path)
        if authorization is None:
            raise Unauthenticated(FIELD, "this needs `Authorization: Bearer TOKEN`")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
            raise Unauthenticated(FIELD, "this is not `Bearer TOKEN`")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: Caller | None = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Unauthenticated(FIELD, "the token is not known")
        return found

    def _refresh(self, path: Path) -> None:
        now_s = self._clock()
        if now_s - self._checked_s < RELOAD_S:
            return
        self._checked_s = now_s
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._callers = load_tokens(path)
        except ConfigError as error:
            log.error("the tokens in force stay as they are: %s", error)
        else:
            log.info("%d tokens from %s are in force", len(self._callers), path)


def load_tokens(path: Path) -> list[tuple[bytes, Caller]]:
    """SHA-256 digest and caller of each entry of a file.

    Raises:
        ConfigError: the file is missing, is not YAML, breaks the schema, or has a name or a token twice; one line
            per problem.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the tokens at {path} cannot be read", [str(error.strerror)]) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        # the parser's message would show a line of the file
        raise ConfigError(f"{path} is not YAML") from None
    try:
        entries = TokenFile.model_validate(document).tokens
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        problems = [f"{'.'.join(map(str, each['loc'])) or '(root)'}: {each['msg']}" for each in found]
        raise ConfigError(f"{path} has {len(problems)} problem(s)", problems) from None
    problems = [*_twice([e.name for e in entries], "name"), *_twice([e.sha256 for e in entries], "sha256")]
    if problems:
        raise ConfigError(f"{path} has {len(problems)} problem(s)", problems)
    return [(bytes.fromhex(e.sha256), Caller(e.name, frozenset(e.roles))) for e in entries]


def new_token() -> str:
    """A token of 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def digest_of(token: str) -> str:
    """What the file keeps of a token: its SHA-256 in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def _twice(values: list[str], what: str) -> list[str]:
    places = {value: [i for i, other in enumerate(values) if other == value] for value in dict.fromkeys(values)}
    return [f"tokens.{found[1]}.{what}: the same as tokens.{found[0]}" for found in places.values() if len(found) > 1]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None while it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
