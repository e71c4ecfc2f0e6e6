"""Every part of a model described, by its class: a file of this folder for each kind of part."""

from ..describing import Description, honest
from ..subjects import Subject
from . import attention, blocks, experts, mlps, norms, positions, whole  # noqa: F401  # each registers its classes

__all__ = ["described"]


def described(subject: Subject) -> dict[str, Description]:
    """The description of every part by its path, the model itself by an empty one."""
    descriptions: dict[str, Description] = {}
    for path, part in subject.model.named_modules(remove_duplicate=False):
        owner, _, name = path.rpartition(".")
        in_owner = descriptions[owner].children.get(name) if path else None
        descriptions[path] = in_owner or honest(part, subject, path)
    return descriptions
