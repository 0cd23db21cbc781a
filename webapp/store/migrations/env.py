"""Alembic's entry point: runs the revisions on the store's connection, inside the store's transaction."""

from __future__ import annotations

from alembic import context

from webapp.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
