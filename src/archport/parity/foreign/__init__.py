"""Is a person's own module the same model, and if not, which of its lines is wrong, in its own names?"""

from .verifying import verify_module

__all__ = ["verify_module"]
