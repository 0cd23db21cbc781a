"""The product's application with a journal that can hold an operation at the beginning of a step.

A test writes the step's name to ``STATE_DIR/hold``. The operation's thread then creates ``STATE_DIR/held`` and waits at
that step until the first file is removed, so that the server can be killed exactly there.
"""

from __future__ import annotations

import threading

from webapp import create_app
from webapp.control.journal import Journal
from webapp.domain.operation import Operation
from webapp.services import Services
from webapp.settings import load_settings

settings = load_settings()


class HoldingJournal(Journal):
    """Records an operation, then waits while the file exists."""

    def record(self, operation: Operation) -> None:
        """Record ``operation``, then hold it if its running step is the one named in the file."""
        super().record(operation)
        step = operation.current_step
        hold, held = settings.storage.state_dir / "hold", settings.storage.state_dir / "held"
        pause = threading.Event()
        while step is not None and hold.exists() and hold.read_text().strip() == step.name.value:
            self.flush()
            held.touch()
            pause.wait(0.02)


app = create_app(settings, Services(settings, HoldingJournal))
