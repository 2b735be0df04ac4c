"""What is checked in is what protoc makes of the .proto files."""

import importlib
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import serving.api.protos
from serving.api.protos.sieve.v1.recommend_pb2 import DESCRIPTOR

ROOT = Path(serving.api.protos.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.proto"))


@pytest.mark.parametrize("name", FILES)
def test_the_generated_code_says_what_the_proto_file_says(name, tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed: nothing to compare with")
    made = tmp_path / "made"
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT}", f"-I{well_known}", f"--descriptor_set_out={made}", name]
    assert protoc.main(arguments) == 0
    [expected] = FileDescriptorSet.FromString(made.read_bytes()).file
    for message in nested(expected.message_type):
        for field in message.field:
            field.ClearField("json_name")  # protoc's own output spells it out
    module = importlib.import_module("serving.api.protos." + name.removesuffix(".proto").replace("/", ".") + "_pb2")
    found = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(found)
    assert found == expected


def nested(messages):
    for message in messages:
        yield message
        yield from nested(message.nested_type)


def test_every_proto_file_has_its_generated_code():
    assert {name.removesuffix(".proto") for name in FILES} == {"sieve/v1/problem", "sieve/v1/recommend"}
    for name in FILES:
        assert (ROOT / name.replace(".proto", "_pb2.py")).exists()
        assert (ROOT / name.replace(".proto", "_pb2.pyi")).exists()


def test_clients_can_be_made_from_what_is_installed():
    from serving.api.protos.sieve.v1 import recommend_pb2_grpc

    [service] = DESCRIPTOR.services_by_name.values()
    for method in service.methods:
        assert hasattr(recommend_pb2_grpc.RecommendServiceServicer, method.name)
    assert "sieve" not in sys.modules
