"""Talk about regions of a picture: one session model behind every face (Python, terminal)."""
