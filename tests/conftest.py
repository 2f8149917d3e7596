"""What holds for all tests."""

from hypothesis import settings

# A busy machine must not fail a property; and a failure must come again at the next run.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
