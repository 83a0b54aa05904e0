"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("athanor", deadline=None)  # shared machines: an example may take any time
settings.load_profile("athanor")
