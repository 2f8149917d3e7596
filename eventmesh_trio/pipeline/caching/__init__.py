"""Documents that are kept: what may be shown of them and for how long, and where they lie."""
