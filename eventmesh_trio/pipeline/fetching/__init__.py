"""From a URL to its page: HTTP, content codings, limits, retries, and origins that fail."""
