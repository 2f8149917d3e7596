"""To origins, safely: names are resolved, addresses judged, connections dialled, here only."""
