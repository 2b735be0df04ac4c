"""What the documentation shows is run."""

import re
import textwrap
from pathlib import Path

from grpc_world import FakeDataplane, answer_of, running

from serving.errors import StoreUnavailable

TEXT = (Path(__file__).parents[4] / "docs" / "grpc.md").read_text()
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)]


def test_the_python_in_the_documentation_runs(capsys):
    stumbles = []

    def answer(query):
        if stumbles:
            raise stumbles.pop()
        return answer_of(query)

    variables = {}
    with running(FakeDataplane(answer)) as server:
        for block in BLOCKS:
            exec(block.replace("localhost:9000", f"127.0.0.1:{server.server.port}"), variables)
        # The last block's channel asks again by itself.
        stumbles.append(StoreUnavailable("down for a moment"))
        stub = variables["recommend_pb2_grpc"].RecommendServiceStub(variables["channel"])
        assert len(stub.Recommend(variables["request"]).items) == 5
        variables["channel"].close()
    assert len(BLOCKS) == 3
    told = capsys.readouterr().out
    assert "['i00', 'i01', 'i02', 'i03', 'i04'] 1" in told
    assert "INVALID_ARGUMENT k k: Input should be greater than or equal to 1" in told
    assert stumbles == []
