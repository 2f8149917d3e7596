"""Measurements against other servers, in the same run and on the same machine.

``python -m benchmarks.stream`` and ``python -m benchmarks.idle``; both take ``--quick``.
"""
