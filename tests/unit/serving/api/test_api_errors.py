import inspect
import pickle

import pytest

from serving import errors
from serving.api.problems import KINDS, error_problem

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.SieveError)]


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


@pytest.mark.parametrize("cls", [c for c in CLASSES if not issubclass(c, errors.ClientError)])
def test_a_client_is_told_nothing_of_the_inside(cls):
    document = error_problem(make(cls))[1]
    assert "secret" not in str(document)
    assert document["error_id"]


def test_a_clients_mistake_names_the_field():
    document = error_problem(errors.InvalidRequest("context.country", "is not a country"))[1]
    assert document["field"] == "context.country"
    assert document["detail"] == "context.country: is not a country"
