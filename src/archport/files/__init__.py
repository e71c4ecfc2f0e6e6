"""Files of a checkpoint: each kind read by one module, a folder of them, and writing one."""
