"""The database: what ended operations did is kept here."""
