"""Everything that outlives a restart: one repository per subject, over one database."""
