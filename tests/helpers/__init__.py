"""What tests share: an origin, server processes, raw clients, outside programs."""
