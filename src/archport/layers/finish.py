"""What comes after the head: logits times a number, or kept below one."""

from torch import Tensor, nn


class LogitScale(nn.Module):
    """Logits times a number. Source: `CohereForCausalLM`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, logits: Tensor) -> Tensor:  # (batch, seq, vocab_size), same out
        """Scale."""
        return logits * self.scale

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"{self.scale:g}"


class SoftCap(nn.Module):
    """Logits bent so that none passes the cap: cap * tanh(logits / cap). Source: Gemma 2, arXiv 2408.00118."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, logits: Tensor) -> Tensor:  # (batch, seq, vocab_size), same out
        """Bend."""
        return (logits / self.cap).tanh() * self.cap

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"{self.cap:g}"
