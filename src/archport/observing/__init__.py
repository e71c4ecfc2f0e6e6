"""See and change what happens inside a forward pass, by names that are the same in every architecture."""

from .hooks import hooked, is_observed
from .site import Site, sites, sites_of
from .watching import Observed, observe

__all__ = ["Observed", "Site", "hooked", "is_observed", "observe", "sites", "sites_of"]
