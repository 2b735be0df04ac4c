"""Files of a lake on object storage, through the client that deltalake itself commits with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction

from serving.errors import DataError

_PART_BYTES = 8 * 2**20


class ObjectStore:
    """A URL such as `s3://bucket/lake` and the options of its client, which takes credentials from the standard
    places of the provider (environment, profile, instance) and not from here."""

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        self.url = url.rstrip("/")
        self.options = dict(options)

    def table_url(self, table: str) -> str:
        """Where a table lies."""
        return f"{self.url}/{table}"

    def upload(self, table: str, folder: Path, actions: Sequence[AddAction]) -> None:
        """Copies a commit's files from a local folder to their places, each whole; nothing refers to them yet.

        Raises:
            DataError: the storage refuses them or does not answer.
        """
        # the stream that the public method wraps takes bytes, and the wrapper hands on buffers
        client = DeltaStorageHandler(self.table_url(table), self.options)._handler
        try:
            for action in actions:
                with (folder / action.path).open("rb") as file:
                    target: Any = client.open_output_stream(action.path, None)
                    while part := file.read(_PART_BYTES):
                        target.write(part)
                    target.close()
        except OSError as error:
            raise DataError(f"table {table} cannot be written to {self.url}", [str(error)]) from None
