"""Property tests without a deadline: the first call of a compiled function includes its compilation."""

from hypothesis import settings

settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")
