"""Everything that may see a patient; never imports the server."""
