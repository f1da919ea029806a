"""Fuzz targets: each module's `check` takes bytes and asserts what must hold whatever they are.

`make fuzz` searches with atheris for bytes that break it and keeps those that reach new code in `corpus/`;
`test_corpus.py` replays them without atheris.
"""
