"""Contracts and the runner: what a stage is, and how stages run. numpy and pydantic only; no Ray, no I/O."""
