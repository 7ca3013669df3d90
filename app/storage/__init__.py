"""Where uploads and artifacts lie: an interface, and the folder that implements it."""

from app.storage.base import Storage, Stored, Writer, new_key
from app.storage.local import LocalStorage

__all__ = ["LocalStorage", "Storage", "Stored", "Writer", "new_key"]
