"""``python -m webapp.cli`` is ``warden``."""

from webapp.cli.main import main

main()
