"""``python -m webapp.worker --dir FOLDER``: runs one model until it is told to stop."""

from __future__ import annotations

from webapp.worker.program import main

if __name__ == "__main__":
    main()
