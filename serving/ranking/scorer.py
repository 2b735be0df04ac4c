"""The ranker: an ONNX model over a request's features.

C candidates, F features, Dq features of the request (user and context), Dc features of a candidate.
"""

from collections.abc import Mapping
from typing import Protocol, cast

from pydantic import Field

from serving.bundles.layout import CANDIDATE, FEATURES, RANKER, REQUEST, ranker_inputs
from serving.bundles.manifest import FeatureManifest, ModelEntry
from serving.bundles.onnx_models import Device, model_problems, open_session
from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, FloatMatrix, Rows
from serving.core.request import Request
from serving.core.stages import Scored, StageSettings
from serving.errors import BundleError
from serving.ranking.assembly import SplitFeatures
from serving.ranking.onnx import run_model


class OnnxScorer:
    """Scores candidates float32[C] by a model of the bundle; larger is better.

    The manifest says what the model takes: `features` float32[C, F], or `request` float32[1, Dq] and `candidate`
    float32[C, Dc], so that what all candidates share is computed once.
    """

    class Settings(StageSettings):
        """Which model ranks, and on what."""

        model: str = Field(RANKER, description="the model's name in the bundle's manifest")
        threads: int = Field(1, ge=1, le=256, description="of one run on the CPU")
        device: Device = Field("cpu", description="cuda: a GPU, or with a warning the CPU where there is none")

    def __init__(self, parts: FilmParts, settings: Settings) -> None:
        """Opens the model and holds its own metadata against everything else.

        Raises:
            BundleError: it is missing or cannot be run, or its features are not those of the manifest and of
                this code, in order; every problem is listed.
        """
        if parts.bundle is None:
            raise BundleError(f"{parts.name} has no models", ["it is a bundle in the making"])
        path, manifest = parts.bundle.model_path(settings.model), parts.bundle.manifest
        entry = manifest.models[settings.model]
        self._session = open_session(path, settings.threads, settings.device)
        problems = model_problems(self._session, entry, manifest)
        problems += feature_problems(manifest.features.names, parts.features.names)
        problems += _input_problems(entry, manifest.features)
        if problems:
            raise BundleError(f"{path} does not fit its bundle", problems)
        self._features = cast(_Features, parts.features)
        self._is_split = len(entry.inputs) > 1

    def score(self, request: Request, candidates: Candidates) -> Scored:
        """One score per candidate; the features come along when the caller wants an explanation.

        Raises:
            DependencyError: the runtime failed.
            DeadlineExceeded: the stage's deadline passed during the run.
        """
        split = self._features.split(request, candidates.row)
        joined = split.joined() if request.query.explain or not self._is_split else None
        inputs: Mapping[str, FloatMatrix] = {REQUEST: split.request, CANDIDATE: split.candidate}
        if not self._is_split and joined is not None:
            inputs = {FEATURES: joined}
        score = run_model(self._session, inputs)
        return Scored(score, joined if request.query.explain else None, split.missing)


class _Features(Protocol):
    def split(self, request: Request, rows: Rows) -> SplitFeatures: ...


def feature_problems(wanted: tuple[str, ...], computed: tuple[str, ...]) -> list[str]:
    """Where the features that a bundle wants differ from those that this code computes, one line each."""
    missing = [name for name in wanted if name not in set(computed)]
    extra = [name for name in computed if name not in set(wanted)]
    problems = [f"needs the feature {name}, which is not computed here" for name in missing]
    problems += [f"does not know the feature {name}, which is computed here" for name in extra]
    if not problems and wanted != computed:
        place = next(i for i in range(len(wanted)) if wanted[i] != computed[i])
        problems.append(f"wants {wanted[place]} as feature {place}, here it is {computed[place]}")
    return problems


def _input_problems(entry: ModelEntry, features: FeatureManifest) -> list[str]:
    """Whether the inputs are those of one of the two kinds of ranker, made of its features in order."""
    found = {tensor.name: tensor.features for tensor in entry.inputs}
    wanted = ranker_inputs(features, split=FEATURES not in found)
    if found.keys() != wanted.keys():
        return [f"takes {', '.join(found)}: a ranker takes {FEATURES}, or {REQUEST} and {CANDIDATE}"]
    problems = []
    for name, entries in wanted.items():
        names = tuple(entry.name for entry in entries)
        problems += [f"input {name}: {problem}" for problem in feature_problems(found[name], names)]
    return problems
