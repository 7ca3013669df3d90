"""A database, a storage and a supervisor, as the tests of the workers have them."""

from tests.workers.conftest import empty_database, job, sessions, settings, storage

__all__ = ["empty_database", "job", "sessions", "settings", "storage"]
