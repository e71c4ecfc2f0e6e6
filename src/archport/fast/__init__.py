"""Faster stand-ins for what torch does anyway: linear maps and compiled steps."""
