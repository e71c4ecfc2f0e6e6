"""A person's own module, in any style: the rows that say where its tensors are, filling it, finding its rows."""
