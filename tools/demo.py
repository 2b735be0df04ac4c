"""The main job on one machine, as a user would type it: simulate, train, materialise, serve, ask once.

Every step is a `sieve` command and is printed before it runs. The world and everything made from it live in
`var/demo`, which is made anew each time.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CONFIG = Path("examples/demo.yaml")
STATE = Path("var/demo")
WORLD = ("--users", "2000", "--items", "1000", "--days", "60")
STEPS = (
    ("data", "simulate", *WORLD),
    ("data", "validate"),
    ("features", "apply"),
    ("train", "recommend"),
    ("features", "materialize"),
)
QUESTION = {"user_id": "u0000042", "k": 20, "context": {"device": "tv", "country": "DE"}}
READY_TIMEOUT_S = 120


def main() -> int:
    """Runs the demo; with `--once` it ends after the first answer, else it serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop after the first answer")
    once = parser.parse_args().once
    sieve = [str(Path(sys.executable).with_name("sieve")), "-c", str(CONFIG)]
    started = time.monotonic()
    shutil.rmtree(STATE, ignore_errors=True)
    for step in STEPS:
        _announce(step)
        subprocess.run([*sieve, *step], check=True)
    _announce(("serve",))
    server = subprocess.Popen([*sieve, "serve"])
    try:
        url = "http://127.0.0.1:8000"
        _wait_until_ready(server, f"{url}/readyz")
        print(json.dumps(_post(f"{url}/v1/recommend", QUESTION), indent=2))
        print(f"\nfrom nothing to the first answer: {time.monotonic() - started:.0f} s", flush=True)
        if not once:
            print(f"serving on {url}, Ctrl-C stops", flush=True)
            server.wait()
    except KeyboardInterrupt:
        print("stopping")
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    return 0


def _announce(step: tuple[str, ...]) -> None:
    print(f"\n$ sieve -c {CONFIG} {' '.join(step)}", flush=True)


def _wait_until_ready(server: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode} before it was ready")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"the server was not ready after {READY_TIMEOUT_S} s")


def _post(url: str, document: dict[str, object]) -> object:
    request = urllib.request.Request(url, json.dumps(document).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


if __name__ == "__main__":
    sys.exit(main())
