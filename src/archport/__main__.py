"""`python -m archport` is the command `archport`."""

from .cli import main

main()
