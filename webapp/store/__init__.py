"""Everything that outlives a restart: one repository a subject, over one database."""
