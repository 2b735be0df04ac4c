"""The ranker: an ONNX model over a request's feature matrix.

C candidates, F features.
"""

from pathlib import Path

import numpy as np

from serving.bundles.manifest import Manifest
from serving.bundles.onnx_models import model_problems, open_session
from serving.core.candidates import Candidates
from serving.core.request import Request
from serving.core.stages import Scored
from serving.errors import BundleError, DependencyError
from serving.ranking.assembly import RequestFeatures
from serving.ranking.onnx import run_model


class OnnxScorer:
    """Scores candidates float32[C] by a model with the input `features` float32[C, F]; larger is better."""

    name = "ranker"

    def __init__(self, path: Path, manifest: Manifest, features: RequestFeatures) -> None:
        """Opens the model, one thread per session, and holds its own metadata against everything else.

        Raises:
            BundleError: it is missing or cannot be run, or its features are not those of the manifest and of
                this code, in order; every problem is listed.
        """
        self._session = open_session(path, threads=1)
        problems = model_problems(self._session, manifest.models[self.name], manifest)
        problems += feature_problems(manifest.features.names, features.names)
        if problems:
            raise BundleError(f"{path} does not fit its bundle", problems)
        self._features = features

    def score(self, request: Request, candidates: Candidates) -> Scored:
        """One finite score per candidate; the features come along when the caller wants an explanation.

        Raises:
            DependencyError: the runtime failed, or a score is not finite.
        """
        features = self._features.matrix(request, candidates.row)
        score = run_model(self._session, {"features": features})
        if not np.isfinite(score).all():
            raise DependencyError(f"{np.count_nonzero(~np.isfinite(score))} scores are not finite")
        return Scored(score, features if request.query.explain else None)


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
