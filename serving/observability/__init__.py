"""Metrics, structured logs and traces of the serving path."""
