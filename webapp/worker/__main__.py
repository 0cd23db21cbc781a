"""``python -m webapp.worker --dir FOLDER``: run one model until the process is told to stop."""

from __future__ import annotations

from webapp.worker.program import main

if __name__ == "__main__":
    main()
