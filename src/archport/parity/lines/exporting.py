"""Lines about the way back: what the port would write to a file."""

from ...files.values import same_bytes
from ...layers import Decoder
from ...registry import architecture
from ...translate.tensors import export_tensors
from ..budget import Check
from ..compare import Comparison
from ..counterparts import canonical


def exported(comparison: Comparison, port: Decoder) -> Check:
    """The port's tensors, exported: the reference's own bytes."""
    table = architecture(port.architecture).table
    state = {canonical(table, key): tensor for key, tensor in comparison.reference.state_dict().items()}
    tensors = export_tensors(table, port.config, dict(port.named_parameters()), present=state)
    differ = [key for key, one in tensors.items() if key not in state or not same_bytes(one.make(), state[key])]
    note = f"{len(tensors)} tensors, " + (f"{len(differ)} of them different" if differ else "byte for byte")
    return Check("export", float(len(differ)), 0.0, 0.0, differ[0] if differ else "", note)
