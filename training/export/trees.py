"""A LambdaMART forest as ONNX, node by node from xgboost's own JSON.

onnxmltools 1.16 takes a `rank:ndcg` booster for a classifier and writes a model that scores NaN, hence this.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from serving.bundles.manifest import FeatureEntry
from serving.errors import BundleError
from training.export.metadata import finish_model
from training.models.lambdamart import LambdaMart

ML_DOMAIN = "ai.onnx.ml"
LEAF = -1


def export_lambdamart(model: LambdaMart, features: Sequence[FeatureEntry]) -> bytes:
    """ONNX bytes: `features` float32[C, F] to `score` float32[C]; NaN goes each node's default way.

    Raises:
        BundleError: the forest is not one of plain numeric splits, or takes another number of features.
    """
    learner = json.loads(model.booster.save_raw("json"))["learner"]
    forest = learner["gradient_booster"]["model"]["trees"]
    _require_numeric(learner, forest)
    parts = [_tree(index, tree) for index, tree in enumerate(forest)]
    attributes = {key: np.concatenate([part[key] for part in parts]).tolist() for key in parts[0]}
    base = json.loads(learner["learner_model_param"]["base_score"])
    ensemble = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["margin"],
        domain=ML_DOMAIN,
        n_targets=1,
        post_transform="NONE",
        base_values=[float(base[0] if isinstance(base, list) else base)],
        **attributes,
    )
    flatten = helper.make_node("Reshape", ["margin", "flat"], ["score"])
    width = int(learner["learner_model_param"]["num_feature"])
    graph = helper.make_graph(
        [ensemble, flatten],
        "sieve",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])],
        [helper.make_tensor("flat", TensorProto.INT64, [1], [-1])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(ML_DOMAIN, 3)]
    exported: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets)
    return finish_model(exported, {"features": features})


def _tree(index: int, tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """One tree's attributes of TreeEnsembleRegressor: xgboost goes left where value < threshold."""
    left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
    threshold = np.array(tree["split_conditions"], np.float32)
    leaf = left == LEAF
    node = np.arange(len(left))
    return {
        "nodes_treeids": np.full(len(node), index),
        "nodes_nodeids": node,
        "nodes_featureids": np.where(leaf, 0, tree["split_indices"]),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LT"),
        "nodes_values": np.where(leaf, np.float32(0), threshold),
        "nodes_truenodeids": np.where(leaf, 0, left),
        "nodes_falsenodeids": np.where(leaf, 0, right),
        "nodes_missing_value_tracks_true": np.where(leaf, 0, tree["default_left"]).astype(np.int64),
        "target_treeids": np.full(int(leaf.sum()), index),
        "target_nodeids": node[leaf],
        "target_ids": np.zeros(int(leaf.sum()), np.int64),
        "target_weights": threshold[leaf],
    }


def _require_numeric(learner: dict[str, Any], forest: list[dict[str, Any]]) -> None:
    problems = []
    if learner["gradient_booster"]["name"] != "gbtree":
        problems.append(f"booster {learner['gradient_booster']['name']!r} is not gbtree")
    if int(learner["learner_model_param"]["num_target"]) > 1:
        problems.append("it has several targets")
    if not forest:
        problems.append("it has no trees")
    problems += [f"tree {i} splits on categories" for i, tree in enumerate(forest) if tree["categories_nodes"]]
    if problems:
        raise BundleError("the forest cannot be exported", problems)
