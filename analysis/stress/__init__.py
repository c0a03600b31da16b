"""Break the recorder and the readers on purpose, and count what is lost or goes wrong."""
