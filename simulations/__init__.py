"""Several hospitals and a coordinator on one machine; may import all rooms, none imports it."""
