"""How many candidates there is time for: predicted cost, and a quality factor that falls under load.

A stage that runs inline cannot be pre-empted, so a deadline there is kept by admission: the cost of scoring n
candidates is predicted from what scoring has cost lately, and only as many are scored as fit into what is left.

The quality factor q in [floor, 1] is the share of the candidates that are scored when there is time for all. It is
additive increase, multiplicative decrease, as in congestion control (Chiu and Jain, 1989): a request that has spent
more than `HIGH_WATER` of its time before the scorer begins, or that scored beyond the stage's budget, takes q to
0.9 q; every other one adds 0.01. So 15 late requests in a row take it from 1 to 0.2, and 80 timely ones back.
"""

from serving.core.deadline import NEVER_S, Deadline

HIGH_WATER = 0.5
DECREASE = 0.9
INCREASE = 0.01
FORGETTING = 0.98
RESERVE = 0.1


class Pressure:
    """What one scorer costs, and how much of its work there is time for."""

    def __init__(self, budget_ms: float = float("inf"), floor: float = 0.1) -> None:
        """budget_ms: the stage's own budget.  floor: the smallest quality factor, in (0, 1]."""
        self.quality = 1.0
        self._budget_ms = budget_ms
        self._floor = floor
        self._weight = self._n = self._t = self._nn = self._nt = 0.0

    def admit(self, count: int, deadline: Deadline) -> int:
        """How many of `count` candidates to score now; 0 where there is no time for any.

        deadline: the request's own. A tenth of the time that it or the stage's budget leaves is kept for what
        follows. Without a deadline all are scored.
        """
        if deadline.at_s == NEVER_S:
            return count
        remaining_ms = deadline.remaining_ms()
        is_late = remaining_ms < (1 - HIGH_WATER) * deadline.budget_ms
        self._adapt(is_late)
        wanted = max(1, round(self.quality * count))
        fixed_ms, each_ms = self._cost()
        left_ms = min(remaining_ms, self._budget_ms) * (1 - RESERVE) - fixed_ms
        fits = wanted if each_ms * wanted <= left_ms else max(0, int(left_ms / each_ms))
        if fits == 0:
            self._forget()
        return fits

    def observe(self, count: int, elapsed_ms: float) -> None:
        """Learns from one run over `count` candidates."""
        self._weight = FORGETTING * self._weight + 1
        self._n = FORGETTING * self._n + count
        self._t = FORGETTING * self._t + elapsed_ms
        self._nn = FORGETTING * self._nn + count * count
        self._nt = FORGETTING * self._nt + count * elapsed_ms
        if elapsed_ms > self._budget_ms:
            self._adapt(is_late=True)

    def _forget(self) -> None:
        # what is never run is never measured again: a prediction that keeps the stage out fades
        self._t *= DECREASE
        self._nt *= DECREASE

    def _adapt(self, is_late: bool) -> None:
        self.quality = max(self._floor, self.quality * DECREASE) if is_late else min(1.0, self.quality + INCREASE)

    def _cost(self) -> tuple[float, float]:
        """Fixed and per-candidate milliseconds: a least-squares line through recent runs, never falling."""
        if not self._weight:
            return 0.0, 0.0
        spread = self._weight * self._nn - self._n * self._n
        if spread <= 1e-6 * self._n * self._n:
            return 0.0, self._t / self._n
        slope = (self._weight * self._nt - self._n * self._t) / spread
        slope = min(max(slope, 0.0), self._t / self._n)
        return (self._t - slope * self._n) / self._weight, slope
