"""The engine as a process of its own, that keeps its model and speaks JSON lines: ``python -m tonno_core.worker``.

Nothing here imports torch before the first request needs it. docs/worker.md is the protocol.
"""
