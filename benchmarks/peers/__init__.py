"""The peers: the same synthetic stream, as each framework would have it written."""
