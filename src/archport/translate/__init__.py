"""What a key table says and does: config fields and tensors of a file to ours and back."""
