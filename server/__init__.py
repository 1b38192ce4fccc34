"""The coordinator: never imports the client, never sees a patient type."""
