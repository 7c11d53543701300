"""The command line: `main` holds the table of verbs, and every verb has a file."""
