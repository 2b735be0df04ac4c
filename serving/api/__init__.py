"""Transports: they translate requests, answers and errors, and decide nothing."""
