"""Fetch published weights into one cache, whole and verified, or say in one line what to do."""

from identisim.downloads.advice import DownloadError, TransferError
from identisim.downloads.cache import home, locate, present, weights_sha256
from identisim.downloads.fetching import fetch

__all__ = ["DownloadError", "TransferError", "fetch", "home", "locate", "present", "weights_sha256"]
