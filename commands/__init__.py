"""The commands: each parses, calls the library, and renders what came back."""
