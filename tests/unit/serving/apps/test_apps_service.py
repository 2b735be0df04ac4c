import numpy as np
import pytest
from serving_world import N, catalogue, write_bundle

from serving.apps.service import LOADING, RecommendService
from serving.config import SieveConfig
from serving.features.item_table import ItemTablePointer, write_item_table


@pytest.fixture
def config(tmp_path):
    return SieveConfig.model_validate(
        {"root": tmp_path, "online_store": {"type": "sqlite", "path": tmp_path / "online.db"}}
    )


def publish(config, name, table):
    write_item_table(config.item_tables / name, table)
    ItemTablePointer.publish(config.item_tables, config.item_tables / name)


def test_a_service_is_loading_until_a_verified_bundle_is_in_place(config):
    path = write_bundle(config.bundles)
    service = RecommendService(config)
    assert (service.application, service.bundle, service.reason, service.is_loading) == (None, None, LOADING, True)
    service.step()
    assert service.bundle == f"recommend/{path.name}"
    assert not service.is_loading


def test_without_a_bundle_it_says_so_and_takes_the_one_that_comes(config):
    service = RecommendService(config)
    service.step()
    assert "no bundle recommend/latest" in service.reason
    write_bundle(config.bundles)
    service.step()
    assert service.application is not None


def test_a_damaged_bundle_is_never_served_and_the_reason_names_the_file(config):
    path = write_bundle(config.bundles)
    damaged = path / "popular" / "rows.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    service = RecommendService(config)
    service.step()
    service.step()
    assert service.application is None
    assert "popular/rows.npy" in service.reason


def test_a_newly_published_item_table_takes_over(config):
    write_bundle(config.bundles)
    service = RecommendService(config)
    service.step()
    assert int(service.application.table().maturity[0]) == 0
    publish(config, "t1", catalogue(maturity=np.full(N, 16, np.int16)))
    service.step()
    assert int(service.application.table().maturity[0]) == 16


def test_an_item_table_with_other_features_leaves_the_old_one_in_force(config):
    from dataclasses import replace

    write_bundle(config.bundles)
    service = RecommendService(config)
    service.step()
    before = service.application.table()
    table = catalogue()
    publish(config, "t1", replace(table, feature_names=(*table.feature_names[:-1], "item_mood")))
    service.step()
    assert service.application.table() is before
