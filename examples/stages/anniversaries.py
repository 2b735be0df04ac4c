from datetime import UTC, datetime

import numpy as np

from serving.core.candidates import found


class AnniversarySource:
    """Popular films that came out ten, twenty, thirty... years ago."""

    def __init__(self, parts):
        self.rows = parts.popular_rows[0][parts.popular_rows[0] >= 0]
        self.years = parts.catalogue.year[self.rows].astype(int)

    def find(self, request):
        age = datetime.fromtimestamp(request.now_us / 1e6, UTC).year - self.years
        rows = self.rows[(self.years > 0) & (age > 0) & (age % 10 == 0)][: request.fetch]
        return found(rows, 1 / np.arange(1, len(rows) + 1, dtype=np.float32))
