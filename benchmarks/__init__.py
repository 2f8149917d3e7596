"""Measurements against other servers, in the same run and on the same machine.

``python -m benchmarks --help`` says how; each comparison also runs alone, as in
``python -m benchmarks.stream --quick``.
"""
