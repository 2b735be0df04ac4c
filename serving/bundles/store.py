"""The bundle store: published, immutable bundles in folders APP/VERSION."""

import os
import tempfile
from pathlib import Path

from serving.bundles.manifest import VERSION_PATTERN, read_manifest
from serving.bundles.verify import verify_bundle
from serving.durable import flush, flush_tree
from serving.errors import BundleError


class BundleStore:
    """Bundles below one folder; a version appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def apps(self) -> list[str]:
        """Applications with at least one version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and self.versions(path.name))

    def versions(self, app: str) -> list[str]:
        """Published versions, newest first; empty where the application has none."""
        folder = self.root / app
        if not folder.is_dir():
            return []
        names = (path.name for path in folder.iterdir() if path.is_dir())
        return sorted(filter(VERSION_PATTERN.fullmatch, names), reverse=True)

    def latest(self, app: str) -> str | None:
        """The newest version, None where there is none."""
        return next(iter(self.versions(app)), None)

    def path(self, app: str, version: str) -> Path:
        """The folder of a version; `latest` is the newest one.

        Raises:
            BundleError: there is no such version; the message names those that there are.
        """
        known = self.versions(app)
        wanted = known[0] if version == "latest" and known else version
        if wanted not in known:
            have = [f"published: {name}" for name in known[:10]] or [f"nothing is published for {app}"]
            raise BundleError(f"no bundle {app}/{version} in {self.root}", have)
        return self.root / app / wanted

    def draft(self, app: str) -> Path:
        """A new empty folder on the store's own file system, to write a bundle into; readers do not see it."""
        folder = self.root / app
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))

    def publish(self, app: str, draft: Path) -> str:
        """Verifies a sealed draft and moves it into place by one rename.

        Returns:
            The version under which it can be loaded from now on.

        Raises:
            BundleError: the draft is incomplete or wrong, belongs to another application, is on another file
                system, or its version exists already. The draft is left as it was.
        """
        problems = verify_bundle(draft, published=False)
        if problems:
            raise BundleError(f"the draft {draft} must not be published", problems)
        manifest = read_manifest(draft)
        if manifest.app != app:
            raise BundleError(f"the draft {draft} must not be published", [f"it is made for {manifest.app}"])
        target = self.root / app / manifest.version
        if target.exists():
            raise BundleError(f"{app}/{manifest.version} is published already")
        flush_tree(draft)
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(draft, target)
        return manifest.version


def _move(draft: Path, target: Path) -> None:
    # mkdtemp makes private folders; a published bundle is read by other users of the machine too.
    draft.chmod(0o755)
    try:
        os.rename(draft, target)
    except OSError as error:
        raise BundleError(f"cannot move {draft} to {target}", [error.strerror or str(error)]) from None
    flush(target.parent)
