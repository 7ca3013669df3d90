"""The HTTP service: jobs come in over HTTP, are kept in a database, and are worked on elsewhere."""
