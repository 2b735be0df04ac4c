"""Pages of one list without a session: a cursor says which prediction goes on, and what was shown of it.

The next page is made afresh from what is known by then, without the items of the pages before it. A cursor holds
rows of one bundle; where another one serves by then, the page starts without them and the answer says so.
"""

import base64
import struct
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from serving.core.candidates import Rows
from serving.core.request import NO_ROWS
from serving.errors import InvalidRequest

HEAD = struct.Struct("<4s16sH")
"""Tag of the bundle, prediction id, position of the next item; the rows shown so far follow, int32 each."""
DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for: the position of its first item, and the rows int32 before it."""

    prediction_id: str
    offset: int = 0
    shown: Rows = field(default_factory=lambda: NO_ROWS)


class Pages:
    """Reads and writes the cursors of one bundle."""

    def __init__(self, bundle: str, max_depth: int) -> None:
        """max_depth: items of one list that its pages may reach."""
        self._bundle = blake2b(bundle.encode(), digest_size=4).digest()
        self._max_depth = max_depth

    @staticmethod
    def first(prediction_id: str) -> Page:
        """The start of a list."""
        return Page(prediction_id)

    def read(self, cursor: str | None, new_id: str, degraded: list[str]) -> Page:
        """What a cursor asks for; without one, the start of a list with the id `new_id`.

        A cursor of another bundle keeps its prediction and its position, and `degraded` notes that items may be
        repeated.

        Raises:
            InvalidRequest: it is not a cursor.
        """
        if cursor is None:
            return self.first(new_id)
        try:
            content = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
            bundle, identifier, offset = HEAD.unpack_from(content)
            shown = np.frombuffer(content, "<i4", offset=HEAD.size).astype(np.int32)
        except (ValueError, struct.error):
            raise InvalidRequest("cursor", "it was not issued here") from None
        if digest != _digest(content):
            raise InvalidRequest("cursor", "it was not issued here")
        if bundle != self._bundle:
            degraded.append("cursor")
            shown = NO_ROWS
        return Page(identifier.hex(), offset, shown)

    def next(self, page: Page, rows: Rows) -> str | None:
        """The cursor to what follows `rows` int32[k], answered as `page`; None at the list's end."""
        offset = page.offset + len(rows)
        if not len(rows) or offset >= self._max_depth:
            return None
        shown = np.concatenate([page.shown, rows]).astype("<i4").tobytes()
        content = HEAD.pack(self._bundle, bytes.fromhex(page.prediction_id), offset) + shown
        return base64.urlsafe_b64encode(_digest(content) + content).rstrip(b"=").decode()


def _digest(content: bytes) -> bytes:
    # finds what was cut or mistyped; it is no secret, and a forged cursor shows nothing that is not eligible
    return blake2b(content, digest_size=DIGEST_BYTES, person=b"sieve-cursor").digest()
