"""What Alembic runs; `storage.catalog.migrate` hands it the connection, inside a transaction of its own."""

from alembic import context

from storage.catalog.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
