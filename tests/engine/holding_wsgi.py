"""The product's application with a journal that holds an operation at the beginning of a step for as long as a file says so.

A test writes the step's name into ``STATE_DIR/hold``; the operation's thread then waits at that step until the file is gone, so
that the server can be killed exactly there. ``STATE_DIR/held`` appears when it waits.
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
    """Writes down, and then waits while it is told to."""

    def record(self, operation: Operation) -> None:
        """Have ``operation`` written, then hold it when its running step is the one that the file names."""
        super().record(operation)
        step = operation.current_step
        hold, held = settings.state_dir / "hold", settings.state_dir / "held"
        pause = threading.Event()
        while step is not None and hold.exists() and hold.read_text().strip() == step.name.value:
            self.flush()
            held.touch()
            pause.wait(0.02)


app = create_app(settings, Services(settings, HoldingJournal))
