"""One anchor and very many hosts: the real daemon with its kernel plane, and one process that is all of the hosts.

`python -m benchmarks.scale.machine` is the anchor's machine alone, in memory.
"""
