"""No deadlines for single examples: the machine may be busy. What must be fast has a test that says so."""

from hypothesis import settings

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")
