"""Break the recorder on purpose, and count what is lost."""
