"""No wall time decides a test here: a loaded machine is slow."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
