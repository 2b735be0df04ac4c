"""Verifies a bundle in a process of its own, so that hashing and recomputing do not slow the answers of this one.

`python -m serving.bundles.check FOLDER` prints the problems as a JSON list.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from serving.bundles.verify import verify_bundle
from serving.errors import BundleError, DependencyError

TIMEOUT_S = 600.0
NICENESS = 10


def check_elsewhere(directory: Path) -> None:
    """Passes a sound bundle.

    Raises:
        BundleError: with every problem.
        DependencyError: the check itself could not be made; the bundle may be sound.
    """
    command = [sys.executable, "-m", "serving.bundles.check", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        problems = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError, OSError) as error:
        raise DependencyError(f"the bundle {directory} could not be verified: {type(error).__name__}") from error
    if problems:
        raise BundleError(f"the bundle {directory} must not serve", problems)


def main() -> None:
    """Verifies the bundle that the command line names, out of the way of whatever serves."""
    os.nice(NICENESS)
    print(json.dumps(verify_bundle(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
