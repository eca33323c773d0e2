"""``python -m cdu``: the command ``cdu`` where it is not on the path."""

from cdu.cli import main

main()
