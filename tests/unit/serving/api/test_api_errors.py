import inspect
import pickle

import grpc
import pytest

from serving import errors
from serving.api import problems
from serving.api.problems import KINDS, Kind, error_problem, kind_of, kind_of_status, mistakes_problem

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.SieveError)]
ALL_KINDS = {*KINDS.values(), *(value for value in vars(problems).values() if isinstance(value, Kind))}


def make(cls: type[errors.SieveError]) -> errors.SieveError:
    if issubclass(cls, errors.ClientError):
        return cls("context.country", "is not a country")
    if issubclass(cls, errors.SetupError):
        return cls("the secret path", ["one", "two"])
    return cls("the secret host")


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_being_pickled(cls):
    error = make(cls)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_its_place_in_the_status_table(cls):
    assert cls in KINDS
    kind, document = error_problem(make(cls))
    assert document["status"] == kind.status
    assert (400 <= kind.status < 500) == issubclass(cls, errors.ClientError)


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.type)
def test_every_kind_has_a_grpc_code_and_only_what_may_pass_says_when_to_try_again(kind):
    assert kind.grpc in grpc.StatusCode.__members__
    assert (kind.retry_after_s is not None) == (kind.status == 503)


@pytest.mark.parametrize(
    ("cls", "status", "code"),
    [
        (errors.InvalidRequest, 422, "INVALID_ARGUMENT"),
        (errors.NotFound, 404, "NOT_FOUND"),
        (errors.Unauthenticated, 401, "UNAUTHENTICATED"),
        (errors.Forbidden, 403, "PERMISSION_DENIED"),
        (errors.OverloadError, 503, "UNAVAILABLE"),
        (errors.DeadlineExceeded, 504, "DEADLINE_EXCEEDED"),
        (errors.StoreUnavailable, 503, "UNAVAILABLE"),
    ],
)
def test_a_class_means_one_status_over_http_and_one_code_over_grpc(cls, status, code):
    assert (KINDS[cls].status, KINDS[cls].grpc) == (status, code)


def test_an_error_that_the_table_has_only_by_its_base_is_told_as_that():
    class Late(errors.DeadlineExceeded):
        pass

    assert kind_of(Late("x")) is KINDS[errors.DeadlineExceeded]


@pytest.mark.parametrize(("status", "told"), [(404, 404), (405, 405), (418, 418), (500, 500), (507, 500)])
def test_what_a_framework_refuses_by_its_status_has_a_kind(status, told):
    assert kind_of_status(status).status == told


@pytest.mark.parametrize("cls", [c for c in CLASSES if not issubclass(c, errors.ClientError)])
def test_a_client_is_told_nothing_of_the_inside(cls):
    document = error_problem(make(cls))[1]
    assert "secret" not in str(document)
    assert ("error_id" in document) != issubclass(cls, errors.OverloadError)


def test_a_clients_mistake_names_the_field():
    document = error_problem(errors.InvalidRequest("context.country", "is not a country"))[1]
    assert document["field"] == "context.country"
    assert document["detail"] == "context.country: is not a country"


def test_of_many_mistakes_twenty_are_listed():
    document = mistakes_problem([(f"f{i}", "is wrong") for i in range(100)])[1]
    assert (len(document["errors"]), document["field"]) == (20, "f0")
